(function () {
  var root = document.documentElement, button = document.getElementById("theme");
  var names = { "": "auto", light: "light", dark: "dark" }, order = ["", "light", "dark"];
  function show(theme) {
    if (theme) root.setAttribute("data-theme", theme); else root.removeAttribute("data-theme");
    button.textContent = "Theme: " + names[theme];
  }
  var theme = root.getAttribute("data-theme") || "";
  /* A page from a file may have no storage. */
  try { theme = localStorage.getItem("fgunlearn-theme") || theme; } catch (error) {}
  if (!(theme in names)) theme = "";
  button.hidden = false;
  show(theme);
  button.addEventListener("click", function () {
    theme = order[(order.indexOf(theme) + 1) % order.length];
    show(theme);
    try { localStorage.setItem("fgunlearn-theme", theme); } catch (error) {}
  });
})();
