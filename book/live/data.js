// Points of the plane. Each data set draws n of them with the random numbers that it is given.
(function (FlowVAE) {
  "use strict";

  const { Tensor, Normal, Mixture } = FlowVAE;

  function points(n, draw) {
    const x = new Tensor(n, 2);
    for (let i = 0; i < n; i++) x.row(i).set(draw());
    return x;
  }

  const onCircle = (angle, radius) => [radius * Math.cos(angle), radius * Math.sin(angle)];
  const noisy = ([a, b], scale, random) =>
    [a + scale * random.normal(), b + scale * random.normal()];

  // Eight Gaussians on a circle, as in the book, and the standard deviation of each.
  const WIDTH = 0.14;
  const rings = (n, random) => points(n, () =>
    noisy(onCircle((2 * Math.PI * random.integer(8)) / 8, 2), WIDTH, random));

  const moons = (n, random) => points(n, () => {
    const [a, b] = onCircle(Math.PI * random.uniform(), 1.6);
    return noisy(random.integer(2) ? [a - 0.8, b - 0.4] : [a + 0.8, 0.4 - b], 0.12, random);
  });

  const spirals = (n, random) => points(n, () => {
    const turn = Math.sqrt(random.uniform()) * 3 * Math.PI, arm = Math.PI * random.integer(2);
    return noisy(onCircle(turn + arm, 0.27 * turn), 0.08, random);
  });

  // Five blades: Gaussians along a ray, which turns the further out they are.
  const pinwheel = (n, random) => points(n, () => {
    const radius = 1.5 + 0.45 * random.normal(), across = 0.16 * random.normal();
    const angle = (2 * Math.PI * random.integer(5)) / 5 + 0.5 * radius;
    const [a, b] = onCircle(angle, radius), [c, d] = onCircle(angle + Math.PI / 2, across);
    return [a + c, b + d];
  });

  const checkerboard = (n, random) => points(n, () => {
    const column = random.integer(4), row = 2 * random.integer(2) + (column % 2);
    return [column, row].map((square) => 1.2 * (square - 2 + random.uniform()));
  });

  // Their true density, where it is known.
  function ringsDensity() {
    const centres = Array.from({ length: 8 }, (_, k) => onCircle((2 * Math.PI * k) / 8, 2));
    const scales = centres.map(() => [Math.log(WIDTH), Math.log(WIDTH)]);
    return new Mixture(new Normal(Tensor.from(centres), Tensor.from(scales)), new Tensor(1, 8));
  }

  // Spots of paint, `[x₁, x₂]` each, evenly and with a little noise.
  const painted = (spots) => (n, random) => points(n, () =>
    noisy(spots[random.integer(spots.length)], 0.07, random));

  // In per cent: further than three standard deviations from each of the eight centres.
  function astray(x) {
    let count = 0;
    for (let n = 0; n < x.rows; n++) {
      const [a, b] = x.row(n), [c, d] = onCircle((Math.round(Math.atan2(b, a) / (Math.PI / 4)) * Math.PI) / 4, 2);
      count += Math.hypot(a - c, b - d) > 3 * WIDTH;
    }
    return (100 * count) / x.rows;
  }

  const DATA_SETS = { rings, moons, spirals, pinwheel, checkerboard };
  const DENSITIES = { rings: ringsDensity };
  // The entropy of eight distant Gaussians, with its sign changed.
  const RINGS_CEILING = -Math.log(8 * 2 * Math.PI * Math.E * WIDTH ** 2);

  Object.assign(FlowVAE, { DATA_SETS, DENSITIES, RINGS_CEILING, astray, painted });
})((globalThis.FlowVAE = globalThis.FlowVAE || {}));
