// Films: strips of frames that one clock moves, so that all films of a page show the same frame.
// The button #play and the slider #frame are the macro `player`; a film is a .film around the picture of its strip.
const films = {
  frame: 0, count: 2, timer: null,

  show(frame) {
    this.frame = (frame + this.count) % this.count;
    document.querySelector("main").style.setProperty("--frame", this.frame);
    document.getElementById("frame").value = this.frame;
  },

  play(on) {
    clearInterval(this.timer);
    this.timer = on ? setInterval(() => this.show(this.frame + 1), 125) : null;
    const button = document.getElementById("play");
    button.textContent = on ? "❚❚ Pause" : "▶ Play";
    button.setAttribute("aria-pressed", on);
  },

  toggle() { this.play(!this.timer); },

  step(by) { this.play(false); this.show(this.frame + by); },

  loaded(picture) {
    const film = picture.closest?.(".film");
    if (!film || !picture.naturalWidth) return;
    const rows = Number(getComputedStyle(film).getPropertyValue("--rows"));
    this.count = Math.max(this.count, Math.round(picture.naturalWidth * rows / picture.naturalHeight));
    document.getElementById("frame").max = this.count - 1;
  },

  missing(picture) {
    const film = picture.closest?.(".film");
    if (film) { film.classList.add("missing"); film.textContent = "not found: " + decodeURI(picture.getAttribute("src")); }
  },

  start() {
    document.addEventListener("load", event => this.loaded(event.target), true);
    document.addEventListener("error", event => this.missing(event.target), true);
    for (const picture of document.querySelectorAll(".film img")) if (picture.complete) this.loaded(picture);
    document.getElementById("play").onclick = () => this.toggle();
    document.getElementById("frame").oninput = event => { this.play(false); this.show(Number(event.target.value)); };
    document.addEventListener("keydown", event => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, button, summary")) return;
      const act = {" ": () => this.toggle(), ",": () => this.step(-1), ".": () => this.step(1)}[event.key];
      if (act) { event.preventDefault(); act(); }
    });
    this.show(0);
    this.play(!matchMedia("(prefers-reduced-motion: reduce)").matches);
  },
};
films.start();
