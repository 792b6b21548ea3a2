"use strict";
(async () => {
  const at = (id) => document.getElementById(id);
  const cases = JSON.parse(at("cases").textContent);
  const canvas = at("canvas");
  const VIEWS = { "three planes": 3, axial: 0, coronal: 1, sagittal: 2, "in 3D": 4 };
  const fail = (text) => {
    at("status").textContent = text;
    document.body.dataset.state = "failed";
  };
  if (!document.createElement("canvas").getContext("webgl2")) {
    fail("This browser has no WebGL 2, which the viewer needs; the report's pictures show the same cases.");
    return;
  }
  const viewer = new niivue.Niivue({
    backColor: [0, 0, 0, 1],
    crosshairColor: [0.91, 0.93, 0.95, 0.7],
    crosshairWidth: 0.4,
    crosshairWidthUnit: "percent",
    fontColor: [0.91, 0.93, 0.95, 1],
    multiplanarLayout: 2,
    dragAndDropEnabled: false,
    isNearestInterpolation: true,
    loadingText: "",
    logLevel: "error",
    multiplanarShowRender: 1,
    show3Dcrosshair: true,
  });
  await viewer.attachToCanvas(canvas);

  const fill = (select, names) => {
    select.replaceChildren(...names.map((name, n) => new Option(name, n)));
    select.closest("label").hidden = names.length < 2;
  };
  const rgb = (colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
  // Values between those of the legend stay clear.
  const colours = (legend, hidden) => {
    const found = new Map(legend.map(([value, , colour]) => [value, rgb(colour)]));
    const last = Math.max(...found.keys());
    const map = { R: [], G: [], B: [], A: [], I: [], labels: [] };
    for (let value = 0; value <= last; value += 1) {
      const [red, green, blue] = found.get(value) ?? [0, 0, 0];
      map.R.push(red);
      map.G.push(green);
      map.B.push(blue);
      map.A.push(found.has(value) && !hidden.has(value) ? 255 : 0);
      map.I.push(value);
      map.labels.push("");
    }
    return map;
  };

  const current = () => cases[Number(at("case").value)];
  const redraw = () => {
    const layers = current().layers;
    const chosen = Number(at("layer").value);
    const opacity = at("shown").checked ? Number(at("opacity").value) : 0;
    layers.forEach((_, n) => viewer.setOpacity(n + 1, n === chosen ? opacity : 0));
    const entries = layers.length ? layers[chosen].legend : [];
    at("legend").replaceChildren(...entries.map((entry) => labelled(chosen, entry)));
  };
  // Which values of which layer are switched off; a legend of one has nothing to choose.
  let hidden = [];
  const labelled = (layer, [value, name, colour]) => {
    const legend = current().layers[layer].legend;
    const item = document.createElement("li");
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = !hidden[layer].has(value);
    box.hidden = legend.length < 2;
    box.addEventListener("input", () => {
      hidden[layer][box.checked ? "delete" : "add"](value);
      viewer.volumes[layer + 1].setColormapLabel(colours(legend, hidden[layer]));
      viewer.updateGLVolume();
    });
    const swatch = document.createElement("i");
    swatch.style.backgroundColor = colour;
    label.append(box, swatch, name);
    item.append(label);
    return item;
  };
  const turn = () => viewer.setSliceType(current().flat ? VIEWS.axial : Object.values(VIEWS)[Number(at("view").value)]);
  const show = async () => {
    document.body.dataset.state = "loading";
    const shown = current();
    while (viewer.volumes.length) viewer.removeVolume(viewer.volumes[viewer.volumes.length - 1]);
    const image = { base64: shown.image, name: "image.nii.gz", cal_min: 0, cal_max: 255, trustCalMinMax: false };
    viewer.addVolume(await niivue.NVImage.loadFromBase64(image));
    hidden = shown.layers.map(() => new Set());
    for (const layer of shown.layers) {
      const mask = await niivue.NVImage.loadFromBase64({ base64: layer.data, name: "mask.nii.gz", opacity: 0 });
      mask.setColormapLabel(colours(layer.legend, new Set()));
      viewer.addVolume(mask);
    }
    viewer.setRadiologicalConvention(!shown.flat);
    viewer.setIsOrientationTextVisible(shown.directions && !shown.flat);
    viewer.setCrosshairWidth(shown.flat ? 0 : 0.4);
    viewer.scene.crosshairPos = shown.place;
    fill(at("layer"), shown.layers.map((layer) => layer.name));
    for (const id of ["shown", "opacity"]) at(id).closest("label").hidden = !shown.layers.length;
    at("view").closest("label").hidden = shown.flat;
    at("caption").textContent = shown.caption;
    at("sides").hidden = shown.flat;
    at("sides").textContent = shown.directions
      ? "Radiological convention: the patient's left is on the right of the picture."
      : "Spacing and directions of this image are unknown.";
    turn();
    redraw();
    at("status").textContent = "";
    document.body.dataset.state = "ready";
  };
  const guarded = (action) => Promise.resolve().then(action).catch((error) => fail(`The case cannot be shown: ${error}`));

  fill(at("case"), cases.map((item) => item.name));
  fill(at("view"), Object.keys(VIEWS));
  const wanted = () => {
    const place = cases.findIndex((item) => item.key && `#${item.key}` === location.hash);
    if (place >= 0) at("case").value = String(place);
    return place >= 0;
  };
  wanted();
  addEventListener("hashchange", () => wanted() && guarded(show));
  at("case").addEventListener("change", () => guarded(show));
  at("view").addEventListener("change", turn);
  for (const id of ["layer", "shown", "opacity"]) at(id).addEventListener("input", redraw);
  await guarded(show);
})();
