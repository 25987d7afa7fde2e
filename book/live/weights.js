// Weights of trained models, which scripts of their own put into `FlowVAE.weights`: tools/live.py.
(function (FlowVAE) {
  "use strict";

  const half = (bits) => {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction;
    return bits >> 15 ? -size : size;
  };

  // A function that fills a module with the weights of that name, and returns it. A weight has 16
  // bits; where `bytes` is told it has 8, whole steps of a size that stands before each parameter.
  function trained(figure) {
    const { parts, data } = FlowVAE.weights[figure], text = atob(data), starts = {};
    let end = 0;
    for (const [name, { count, bytes = 2 * count }] of Object.entries(parts)) {
      starts[name] = end;
      end += bytes;
    }
    const number = (i) => half(text.charCodeAt(i) | (text.charCodeAt(i + 1) << 8));
    const whole = (i) => (text.charCodeAt(i) << 24) >> 24;
    return (name, module) => {
      const { count, bytes, orders } = parts[name];
      const wanted = module.parameters.reduce((sum, { data }) => sum + data.length, 0);
      if (count !== wanted) throw new Error(`${name} has ${count} weights, not ${wanted}`);
      let i = starts[name];
      for (const parameter of module.parameters) {
        const step = bytes ? number(i) : 1, size = bytes ? 1 : 2, read = bytes ? whole : number;
        if (bytes) i += 2;
        for (let j = 0; j < parameter.data.length; j++, i += size) parameter.data[j] = step * read(i);
        // Nothing here learns, and a gradient would be a cost.
        parameter.grad = null;
      }
      [module, module.flow].filter((m) => m && m.orders).forEach((flow, f) => {
        flow.orders = orders[f];
      });
      return module;
    };
  }

  // Which run they are of, in words.
  function provenance(figure) {
    const { run, sha256 } = FlowVAE.weights[figure];
    return `Weights: ${run}. Packed by tools/live.py, SHA-256 ${sha256.slice(0, 12)}…`;
  }

  Object.assign(FlowVAE, { weights: {}, trained, provenance });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
