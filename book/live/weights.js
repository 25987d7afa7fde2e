// Weights of trained models, which scripts of their own put into `FlowVAE.weights`: tools/live.py.
(function (FlowVAE) {
  "use strict";

  const half = (bits) => {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction;
    return bits >> 15 ? -size : size;
  };

  // A function that fills a module with the weights of that name, and returns it.
  function trained(figure) {
    const { parts, data } = FlowVAE.weights[figure], bytes = atob(data), starts = {};
    let count = 0;
    for (const [name, part] of Object.entries(parts)) {
      starts[name] = count;
      count += part.count;
    }
    const number = (i) => half(bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8));
    return (name, module) => {
      const { count, orders } = parts[name];
      const wanted = module.parameters.reduce((sum, { data }) => sum + data.length, 0);
      if (count !== wanted) throw new Error(`${name} has ${count} weights, not ${wanted}`);
      let i = starts[name];
      for (const parameter of module.parameters) {
        for (let j = 0; j < parameter.data.length; j++) parameter.data[j] = number(i++);
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
    return `Weights: ${run}. Packed by tools/live.py, SHA-256 ${sha256.slice(0, 12)}….`;
  }

  Object.assign(FlowVAE, { weights: {}, trained, provenance });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
