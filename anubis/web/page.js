// A shortcut on the home screen, with #up behind the address, acts when it is opened: not when the
// page is loaded again, and not after one of its own buttons. The address stays as it is, so that
// the page can be put on the home screen while it is open.
const opened = performance.getEntriesByType("navigation")[0];
if (location.hash === "#up" && !document.referrer && opened && opened.type === "navigate") {
  const form = document.querySelector("form.up");
  if (form) form.submit();
}
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) location.reload();
});
