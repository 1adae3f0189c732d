/* Material's search runs in a Worker, which browsers refuse to pages opened from disk: there, the same script runs in a hidden iframe. */
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget { // by the second name, Material finds its folder
    constructor(url) {
      super();
      const place = new URL(url, document.baseURI);
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      const inner = this.frame.contentWindow;
      inner.document.open();
      inner.document.write("<!doctype html><html><body></body></html>");
      inner.document.close();
      const load = (address) => new Promise((done, fail) => {
        const script = inner.document.createElement("script");
        script.src = new URL(address, place);
        script.onload = done;
        script.onerror = () => fail(new Error(`could not load ${address}`));
        inner.document.body.appendChild(script);
      });
      inner.importScripts = (...addresses) => addresses.reduce((before, address) => before.then(() => load(address)), Promise.resolve());
      inner.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      };
      this.loaded = inner.importScripts(place);
    }
    postMessage(data) {
      this.loaded.then(() => this.frame.contentWindow.dispatchEvent(new this.frame.contentWindow.MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
