// A shortcut on the home screen, with #up behind the address, acts at once.
if (location.hash === "#up") {
  history.replaceState(null, "", location.pathname);
  const form = document.querySelector("form.up");
  if (form) form.submit();
}
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) location.reload();
});
