// Works the page: pictures chosen, dropped, and shown to it while its camera is on, in settings of its own or others;
// then tries to reach another machine in every way that a page has. GIVEN is replaced by the test; the lines become the
// body of a function (tests/browser.py).
const doc = page.document, get = (id) => doc.getElementById(id), rows = [...get("classes").children];
const bad = () => get("status").classList.contains("bad");
const answered = () => rows[0].dataset.value !== undefined || bad();
await until(() => !get("file").disabled || bad());
if (bad()) throw get("status").textContent;
const found = { answers: [], seen: [], own: { ...get("app").dataset } };
for (const [name, dropped, settings] of GIVEN) {
  Object.assign(get("app").dataset, found.own, settings);
  if (dropped) {
    get("camera").click();
    rows.forEach((row) => delete row.dataset.value);
    await until(answered);
    found.camera = get("camera").textContent;
  }
  const transfer = new page.DataTransfer();
  transfer.items.add(new page.File([await (await fetch(`/given/${name}`)).arrayBuffer()], name));
  if (!dropped) get("file").files = transfer.files;
  const [at, event] = dropped
    ? [get("stage"), new page.DragEvent("drop", { dataTransfer: transfer, bubbles: true })]
    : [get("file"), new page.Event("change")];
  at.dispatchEvent(event);
  await until(() => get("status").textContent.startsWith(`${name}, `) || bad());
  if (bad()) throw get("status").textContent;
  found.answers.push(rows.map((row) => Number(row.dataset.value)));
  const { width, height } = get("seen").querySelector("canvas");
  const pixels = get("seen").querySelector("canvas").getContext("2d").getImageData(0, 0, width, height).data;
  found.seen.push([height, width, ...pixels.filter((_, i) => i % 4 < 3)]);
}
found.off = [get("camera").textContent, get("video").srcObject];
found.loaded = page.performance.getEntriesByType("resource").map((one) => one.name);
found.refused = 0;
doc.addEventListener("securitypolicyviolation", () => found.refused++);
page.fetch("http://outside.test/fetch").catch(() => {});
page.navigator.sendBeacon("http://outside.test/beacon", "x");
new page.Image().src = "http://outside.test/image";
try { new page.WebSocket("ws://outside.test/socket"); } catch {}
const script = doc.createElement("script");
script.src = "http://outside.test/script";
doc.body.append(script);
await until(() => found.refused >= 5);
await fetch("http://outside.test/allowed");
const text = new page.DataTransfer();
text.items.add(new page.File(["no picture"], "a.txt"));
get("file").files = text.files;
get("file").dispatchEvent(new page.Event("change"));
await until(bad);
found.bad = get("status").textContent;
return found;
