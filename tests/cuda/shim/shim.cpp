// The scheduler behind the shim: one fiber per thread of a block, switched at barriers.
//
// On x86-64 a switch is a few instructions: swapcontext() makes a system call each time, and a block of 256 threads
// that sums over its warps switches thousands of times.
#include <cuda_runtime.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <exception>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
extern "C" void fgu_shim_switch(void** save, void* load);
asm(R"(
.text
.globl fgu_shim_switch
.type fgu_shim_switch, @function
fgu_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fgu_shim_switch, .-fgu_shim_switch
)");
#endif

uint3 threadIdx{};
uint3 blockIdx{};
dim3 blockDim;
dim3 gridDim;

namespace shim {

namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr unsigned kMaxThreads = 1024;

enum class State { ready, at_block_barrier, at_warp_barrier, done };

#if defined(__x86_64__)

struct Execution {  // where a thread of control stands
  void* top = nullptr;

  void begin_at(void* stack, size_t bytes, void (*entry)()) {
    void** place = reinterpret_cast<void**>(static_cast<char*>(stack) + bytes);
    *--place = nullptr;  // the entry function never returns
    *--place = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--place = nullptr;
    top = place;
  }
  void switch_to(Execution& other) { fgu_shim_switch(&top, other.top); }
};

#else

struct Execution {
  ucontext_t context;

  void begin_at(void* stack, size_t bytes, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
  void switch_to(Execution& other) { swapcontext(&context, &other.context); }
};

#endif

struct Fiber {
  Execution execution;
  void* stack = nullptr;
  State state = State::done;
  Meeting meeting = Meeting::sync;
  unsigned turn = 0;  // warp exchanges so far: their slots alternate
};

// Two sets of slots: a lane can only write a set again after an exchange through the other, and then all have read it.
struct Warp {
  alignas(8) unsigned char slots[2][32 * 8];
};

struct Scheduler {
  Fiber fibers[kMaxThreads];
  Warp warps[kMaxThreads / 32];
  Execution main;
  const void* main_stack = nullptr;
  size_t main_stack_bytes = 0;
  unsigned threads = 0;
  unsigned current = 0;
  const std::function<void()>* body = nullptr;
  std::exception_ptr error;
  Order order = Order::forward;
  std::mt19937_64 random;
  int64_t launches = 0;
};

Scheduler& scheduler() {
  static Scheduler one;
  return one;
}

void before_switch([[maybe_unused]] void** keep, [[maybe_unused]] const void* stack, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(keep, stack, bytes);
#endif
}

void after_switch([[maybe_unused]] void* kept, [[maybe_unused]] const void** stack, [[maybe_unused]] size_t* bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(kept, stack, bytes);
#endif
}

void to_scheduler(Fiber& fiber, bool for_good) {
  Scheduler& s = scheduler();
  void* kept = nullptr;
  before_switch(for_good ? nullptr : &kept, s.main_stack, s.main_stack_bytes);
  fiber.execution.switch_to(s.main);
  after_switch(kept, &s.main_stack, &s.main_stack_bytes);
}

void entry() {
  Scheduler& s = scheduler();
  after_switch(nullptr, &s.main_stack, &s.main_stack_bytes);
  Fiber& fiber = s.fibers[s.current];
  try {
    (*s.body)();
  } catch (...) {
    if (!s.error) s.error = std::current_exception();
  }
  fiber.state = State::done;
  to_scheduler(fiber, true);
}

void resume(unsigned thread) {
  Scheduler& s = scheduler();
  Fiber& fiber = s.fibers[thread];
  s.current = thread;
  threadIdx = {thread, 0, 0};
  void* kept = nullptr;
  before_switch(&kept, fiber.stack, kStackBytes);
  s.main.switch_to(fiber.execution);
  after_switch(kept, nullptr, nullptr);
}

void wait_at(State barrier) {
  Fiber& fiber = scheduler().fibers[scheduler().current];
  fiber.state = barrier;
  to_scheduler(fiber, false);
  if (scheduler().error) throw std::runtime_error("another thread of the block failed");
}

// Lets go those whose barrier is complete. A warp's is complete when all 32 lanes stand at it: a lane that has returned
// takes no part in an exchange, which is undefined on a GPU and an error here.
bool release() {
  Scheduler& s = scheduler();
  bool released = false;
  bool all_at_block_barrier = true;
  bool any_at_block_barrier = false;
  for (unsigned t = 0; t < s.threads; ++t) {
    any_at_block_barrier |= s.fibers[t].state == State::at_block_barrier;
    all_at_block_barrier &= s.fibers[t].state == State::at_block_barrier || s.fibers[t].state == State::done;
  }
  if (any_at_block_barrier && all_at_block_barrier) {
    for (unsigned t = 0; t < s.threads; ++t) {
      if (s.fibers[t].state == State::at_block_barrier) s.fibers[t].state = State::ready;
    }
    return true;
  }
  for (unsigned first = 0; first < s.threads; first += 32) {
    bool complete = true;
    for (unsigned t = first; t < first + 32; ++t) complete &= s.fibers[t].state == State::at_warp_barrier;
    for (unsigned t = first; complete && t < first + 32; ++t) {
      if (s.fibers[t].meeting != s.fibers[first].meeting) {
        s.error = std::make_exception_ptr(std::logic_error("the lanes of a warp meet at different intrinsics"));
      }
    }
    for (unsigned t = first; complete && t < first + 32; ++t) s.fibers[t].state = State::ready;
    released |= complete;
  }
  return released;
}

void run_block(unsigned block) {
  Scheduler& s = scheduler();
  blockIdx = {block, 0, 0};
  for (unsigned t = 0; t < s.threads; ++t) {
    Fiber& fiber = s.fibers[t];
    if (fiber.stack == nullptr) {
      fiber.stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
      if (fiber.stack == MAP_FAILED) throw std::bad_alloc();
    }
#if defined(__SANITIZE_ADDRESS__)
    // The frames that the last thread on this stack never returned from.
    __asan_unpoison_memory_region(static_cast<char*>(fiber.stack) + kStackBytes - (8 << 10), 8 << 10);
#endif
    fiber.execution.begin_at(fiber.stack, kStackBytes, entry);
    fiber.state = State::ready;
    fiber.turn = 0;
  }
  std::vector<unsigned> order(s.threads);
  std::iota(order.begin(), order.end(), 0u);
  if (s.order == Order::reverse) std::reverse(order.begin(), order.end());
  for (;;) {
    if (s.order == Order::shuffled) std::shuffle(order.begin(), order.end(), s.random);
    bool ran = false;
    for (unsigned t : order) {
      if (s.fibers[t].state != State::ready) continue;
      resume(t);
      ran = true;
    }
    if (ran) continue;
    const bool done =
        std::all_of(s.fibers, s.fibers + s.threads, [](const Fiber& f) { return f.state == State::done; });
    if (done) break;
    if (s.error) {  // the others would wait for a thread that failed: let them fail too, and unwind
      for (unsigned t = 0; t < s.threads; ++t) {
        if (s.fibers[t].state != State::done) s.fibers[t].state = State::ready;
      }
      continue;
    }
    if (!release()) s.error = std::make_exception_ptr(std::logic_error("threads wait at a barrier that others miss"));
  }
  if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
}

}  // namespace

void set_order(Order order, uint64_t seed) {
  scheduler().order = order;
  scheduler().random.seed(seed);
}

void launch(unsigned blocks, unsigned threads, const std::function<void()>& body) {
  Scheduler& s = scheduler();
  if (threads == 0 || threads > kMaxThreads || threads % 32 != 0) {
    throw std::invalid_argument("a block must have 32 to 1024 threads in full warps");
  }
  ++s.launches;
  s.threads = threads;
  s.body = &body;
  blockDim = {threads, 1, 1};
  gridDim = {blocks, 1, 1};
  std::vector<unsigned> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  if (s.order == Order::reverse) std::reverse(order.begin(), order.end());
  if (s.order == Order::shuffled) std::shuffle(order.begin(), order.end(), s.random);
  for (unsigned block : order) run_block(block);
}

int64_t take_launches() { return std::exchange(scheduler().launches, 0); }

unsigned lane() { return scheduler().current % 32; }

void block_barrier() { wait_at(State::at_block_barrier); }

void warp_barrier(unsigned mask, Meeting meeting) {
  scheduler().fibers[scheduler().current].meeting = meeting;
  if (mask != 0xffffffffu) throw std::logic_error("the shim knows full warps only");
  wait_at(State::at_warp_barrier);
}

unsigned char* warp_slots() {
  Scheduler& s = scheduler();
  return s.warps[s.current / 32].slots[s.fibers[s.current].turn++ & 1];
}

void trap() { throw std::runtime_error("a kernel trapped"); }

}  // namespace shim
