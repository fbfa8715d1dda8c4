// How a CPU kernel gets its threads: handed in by the caller, so that kernels know nothing of torch.
#pragma once

#include <atomic>
#include <cstdint>

namespace fgunlearn {

class Executor {
 public:
  using Task = void (*)(int64_t worker, void* context);
  // Runs task(w, context) for every w in [0, workers), each worker exactly once, and returns when all are done.
  using Launch = void (*)(int64_t workers, Task task, void* context);

  Executor(int64_t workers, Launch launch) : workers_(workers < 1 ? 1 : workers), launch_(launch) {}

  int64_t workers() const { return workers_; }

  // Calls body(worker, item) for every item in [0, items). Items are handed out one at a time, so which worker gets
  // which item changes from run to run: results must not depend on it.
  template <typename Body>
  void for_each(int64_t items, Body&& body) const {
    if (items <= 0) return;
    if (workers_ == 1 || items == 1) {
      for (int64_t item = 0; item < items; ++item) body(int64_t{0}, item);
      return;
    }
    struct Shared {
      std::atomic<int64_t> next{0};
      int64_t items;
      Body* body;
    } shared;
    shared.items = items;
    shared.body = &body;
    launch_(
        workers_ < items ? workers_ : items,
        [](int64_t worker, void* context) {
          auto* s = static_cast<Shared*>(context);
          for (;;) {
            const int64_t item = s->next.fetch_add(1, std::memory_order_relaxed);
            if (item >= s->items) return;
            (*s->body)(worker, item);
          }
        },
        &shared);
  }

 private:
  int64_t workers_;
  Launch launch_;
};

}  // namespace fgunlearn
