/* Cursor, zoom and log/linear switch for the charts of a report. The charts are complete SVG without it.
 *
 * Why not a chart library: those that draw on a canvas neither follow dark mode, nor print sharply, nor speak to screen readers
 * unless drawn again for each; and any of them is one more thing to install on a GPU node without network. What is needed here
 * fits a page.
 *
 * A chart is a <figure class="chart"> with the values in a script element of type JSON. The area 0..WIDTH x 0..HEIGHT, the ticks and the number
 * format are those of chart.cpp and html.cpp. */
'use strict';
(() => {
const WIDTH = 2000, HEIGHT = 1000, SHOWN_IN_TIP = 12;

const short = v => {
  const a = Math.abs(v), digits = x => String(Number(x.toPrecision(6)));
  if (a >= 1e15 || (a > 0 && a < 1e-3)) return v.toExponential(5).replace(/\.?0*e\+?/, 'e');
  return a >= 1e9 ? digits(v / 1e9) + 'G' : a >= 1e6 ? digits(v / 1e6) + 'M' : a >= 1e4 ? digits(v / 1e3) + 'k' : digits(v);
};

const ticks = (lo, hi, log) => {
  const at = [];
  if (log) {
    const first = Math.floor(Math.log10(lo)), last = Math.ceil(Math.log10(hi));
    for (const leads of [[1, 2, 5], [1]]) {
      at.length = 0;
      const stride = leads.length > 1 ? 1 : Math.max(1, Math.floor((last - first + 5) / 6));
      for (let power = first; power <= last; power += stride)
        for (const lead of leads) {
          const t = lead * Math.pow(10, power);
          if (t >= lo * (1 - 1e-9) && t <= hi * (1 + 1e-9)) at.push(t);
        }
      if (at.length <= 7) break;
    }
    if (at.length >= 3) return at;
    at.length = 0;
  }
  const raw = (hi - lo) / 5, power = Math.pow(10, Math.floor(Math.log10(raw))), lead = raw / power;
  const step = power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
  for (let k = Math.ceil(lo / step - 1e-9); k * step <= hi + step * 1e-9 && at.length < 20; ++k) at.push(k * step);
  return at;
};

/* A range with a margin, never empty; and the place of a value in a range, 0 to 1. */
const fit = (lo, hi, log, margin) => {
  if (log) {
    if (hi / lo < 1 + 1e-6) { lo /= 1.1; hi *= 1.1; }
    const pad = Math.pow(hi / lo, margin);
    return [lo / pad, hi * pad];
  }
  if (hi - lo < 1e-12 + 1e-6 * Math.abs(hi)) {
    const pad = Math.max(0.05 * Math.abs(hi), 1e-9);
    lo -= pad;
    hi += pad;
  }
  return [lo - margin * (hi - lo), hi + margin * (hi - lo)];
};
const place = (v, [lo, hi], log) => log ? Math.log(v / lo) / Math.log(hi / lo) : (v - lo) / (hi - lo);

const element = (name, className, parent) => {
  const e = document.createElement(name);
  e.className = className;
  parent.append(e);
  return e;
};

/* Index of the value of the sorted list xs nearest to x. */
const nearest = (xs, x) => {
  let lo = 0, hi = xs.length - 1;
  while (hi - lo > 1) {
    const middle = (lo + hi) >> 1;
    if (xs[middle] < x) lo = middle; else hi = middle;
  }
  return Math.abs(xs[lo] - x) <= Math.abs(xs[hi] - x) ? lo : hi;
};

function bringToLife(figure, data) {
  const plot = figure.querySelector('.plot'), svg = plot.querySelector('svg');
  const grid = svg.querySelector('.grid'), groups = [...svg.querySelectorAll('g')];
  const yTicks = plot.querySelector('.ticks.y'), xTicks = plot.querySelector('.ticks.x');
  const xs = [...new Set(data.series.flatMap(s => s.x))].sort((a, b) => a - b);
  const whole = fit(xs[0], xs[xs.length - 1], false, 0.012);
  const hidden = data.series.map(() => false);
  let view = whole, log = data.log, cursor = -1;  // cursor: index into xs

  const layer = element('div', 'layer', plot);
  layer.tabIndex = 0;
  layer.setAttribute('role', 'slider');
  layer.setAttribute('aria-label', data.title + ': read values at a ' + data.x);
  layer.setAttribute('aria-valuemin', xs[0]);
  layer.setAttribute('aria-valuemax', xs[xs.length - 1]);
  const line = element('div', 'cursor', layer), area = element('div', 'selection', layer), tip = element('div', 'tip', layer);
  const marks = data.series.map((s, i) => element('i', 'mark ' + groups[i].getAttribute('class').replace(' faint', ''), layer));
  for (const e of [line, area, tip, ...marks]) e.hidden = true;

  const tools = element('div', 'tools', figure.querySelector('figcaption'));
  const button = (text, name, action) => {
    const b = element('button', '', tools);
    b.type = 'button';
    b.textContent = text;
    b.setAttribute('aria-label', data.title + ': ' + name);
    b.addEventListener('click', action);
    return b;
  };
  const resetButton = button('reset', 'show everything', () => { zoom(whole); layer.focus(); });
  const logButton = button('log', 'logarithmic axis', () => { log = !log; draw(); });
  logButton.hidden = !data.series.every(s => s.y.every(v => v > 0));

  /* What of a series the view shows: with the neighbours on both sides, so that lines run out of the picture. */
  const inView = s => {
    let a = s.x.findIndex(x => x >= view[0]), b = s.x.findLastIndex(x => x <= view[1]);
    if (a < 0) a = s.x.length;
    return [Math.max(a - 1, 0), Math.min(b + 1, s.x.length - 1), a, b];
  };
  let y = [0, 1];
  const draw = () => {
    let lo = Infinity, hi = -Infinity;
    const see = inside => data.series.forEach((s, i) => {
      if (hidden[i]) return;
      const [from, to, a, b] = inView(s);
      for (let k = inside ? a : from; k <= (inside ? b : to); ++k) { lo = Math.min(lo, s.y[k]); hi = Math.max(hi, s.y[k]); }
    });
    see(true);
    if (lo > hi) see(false);
    if (lo > hi) [lo, hi] = [1, 1];
    y = fit(lo, hi, log, 0.05);
    data.series.forEach((s, i) => {
      const [from, to] = inView(s), [path, dots] = groups[i].children;
      let d = '', points = '';
      for (let k = from; k <= to && !hidden[i]; ++k) {
        const at = Math.round(WIDTH * place(s.x[k], view, false)) + ' ' + Math.round(HEIGHT * (1 - place(s.y[k], y, log)));
        d += (d ? 'L' : 'M') + at;
        if (s.dots) points += 'M' + at + 'h0';
      }
      path.setAttribute('d', d);
      dots.setAttribute('d', points);
    });
    const label = (box, side, t, share) => {
      const span = element('span', '', box);
      span.style[side] = 100 * share + '%';
      span.textContent = short(t);
    };
    yTicks.replaceChildren();
    xTicks.replaceChildren();
    let d = '';
    for (const t of ticks(...y, log)) {
      label(yTicks, 'bottom', t, place(t, y, log));
      d += 'M0 ' + Math.round(HEIGHT * (1 - place(t, y, log))) + 'H' + WIDTH;
    }
    grid.setAttribute('d', d);
    for (const t of ticks(...view, false)) label(xTicks, 'left', t, place(t, view, false));
    resetButton.hidden = view === whole;
    logButton.setAttribute('aria-pressed', log);
    point(cursor);
  };

  /* Shows the values at xs[index]; of a series without a value there, those at its nearest step. */
  const point = index => {
    cursor = index;
    const x = xs[index], share = index < 0 ? -1 : place(x, view, false);
    const shown = share >= 0 && share <= 1;
    for (const e of [line, tip]) e.hidden = !shown;
    for (const mark of marks) mark.hidden = true;
    if (!shown) return;
    line.style.left = 100 * share + '%';
    const said = [data.x + ' ' + short(x)];
    tip.replaceChildren();
    element('b', '', tip).textContent = data.x + ' ' + (x >= 1e4 ? x.toLocaleString('en') : short(x));
    data.series.forEach((s, i) => {
      if (hidden[i]) return;
      const k = nearest(s.x, x), value = short(s.y[k]) + (s.x[k] === x ? '' : ' at ' + short(s.x[k]));
      const left = place(s.x[k], view, false), up = place(s.y[k], y, log);
      marks[i].hidden = !(left >= 0 && left <= 1 && up >= 0 && up <= 1);
      marks[i].style.left = 100 * left + '%';
      marks[i].style.bottom = 100 * up + '%';
      if (said.length > SHOWN_IN_TIP) return;
      said.push(s.name + ' ' + value);
      const row = element('span', marks[i].className.replace('mark ', ''), tip);
      element('i', '', row);
      element('em', '', row).textContent = s.name;
      element('strong', '', row).textContent = value;
    });
    // Beside the cursor, over the labels of the axis if need be, never out of the figure.
    const all = layer.clientWidth, own = tip.offsetWidth, at = share * all;
    tip.style.left = Math.max(Math.min(share < 0.5 ? at + 12 : at - 12 - own, all + 8 - own), -50) + 'px';
    layer.setAttribute('aria-valuenow', x);
    layer.setAttribute('aria-valuetext', said.join(', '));
  };

  /* `to`: the range of x to show; ranges that hold fewer than two values stay as they are. */
  const zoom = to => {
    if (to !== whole) {
      to = [Math.max(to[0], whole[0]), Math.min(to[1], whole[1])];
      if (to[0] <= whole[0] && to[1] >= whole[1]) to = whole;
      else if (xs.filter(x => x >= to[0] && x <= to[1]).length < 2) return;
    }
    view = to;
    draw();
  };
  const zoomBy = factor => {
    const center = cursor >= 0 ? xs[cursor] : (view[0] + view[1]) / 2, width = factor * (view[1] - view[0]);
    const from = Math.max(Math.min(center - width / 2, whole[1] - width), whole[0]);
    zoom([from, from + width * (1 + 1e-12)]);
  };
  /* Moves the cursor by n values, within the view; into the view when it is not there. */
  const move = n => {
    const inside = xs.map((x, i) => i).filter(i => xs[i] >= view[0] && xs[i] <= view[1]);
    if (!inside.length) return;
    const at = inside.indexOf(cursor);
    point(inside[Math.min(Math.max(at < 0 ? (n < 0 ? inside.length - 1 : 0) : at + n, 0), inside.length - 1)]);
  };

  const keys = {
    ArrowLeft: e => move(e.shiftKey ? -10 : -1), ArrowRight: e => move(e.shiftKey ? 10 : 1),
    Home: () => move(-Infinity), End: () => move(Infinity),
    '+': () => zoomBy(0.5), '=': () => zoomBy(0.5), '-': () => zoomBy(2), '_': () => zoomBy(2),
    Escape: () => { point(-1); zoom(whole); },
  };
  layer.addEventListener('keydown', e => {
    if (e.ctrlKey || e.altKey || e.metaKey || !Object.hasOwn(keys, e.key)) return;
    e.preventDefault();
    keys[e.key](e);
  });

  const shareAt = e => {
    const box = layer.getBoundingClientRect();
    return Math.min(Math.max((e.clientX - box.left) / box.width, 0), 1);
  };
  const xAt = share => view[0] + share * (view[1] - view[0]);
  let start = -1;  // share of the width where a drag began
  layer.addEventListener('pointerdown', e => {
    if (e.button !== 0) return;
    start = shareAt(e);
    layer.setPointerCapture(e.pointerId);
  });
  layer.addEventListener('pointermove', e => {
    const now = shareAt(e);
    point(nearest(xs, xAt(now)));
    area.hidden = start < 0 || Math.abs(now - start) * layer.clientWidth < 5;
    area.style.left = 100 * Math.min(start, now) + '%';
    area.style.width = 100 * Math.abs(now - start) + '%';
  });
  const endDrag = e => {
    const from = start, to = shareAt(e), selected = !area.hidden;
    start = -1;
    area.hidden = true;
    if (e.type === 'pointerup' && selected) zoom([xAt(Math.min(from, to)), xAt(Math.max(from, to))]);
  };
  layer.addEventListener('pointerup', endDrag);
  layer.addEventListener('pointercancel', endDrag);
  layer.addEventListener('pointerleave', () => { if (start < 0 && document.activeElement !== layer) point(-1); });
  layer.addEventListener('blur', () => point(-1));
  layer.addEventListener('dblclick', () => zoom(whole));

  /* With several curves the names in the legend switch them off and on. */
  const names = figure.querySelectorAll('.legend li');
  if (names.length > 1) names.forEach((item, i) => {
    const b = document.createElement('button');
    b.type = 'button';
    b.append(...item.childNodes);
    b.setAttribute('aria-pressed', 'true');
    b.addEventListener('click', () => {
      hidden[i] = !hidden[i];
      b.setAttribute('aria-pressed', String(!hidden[i]));
      draw();
    });
    item.append(b);
  });
  draw();
}

for (const figure of document.querySelectorAll('figure.chart')) {
  const values = figure.querySelector('script');
  if (values) bringToLife(figure, JSON.parse(values.textContent));
}
for (const hint of document.querySelectorAll('.hint')) hint.hidden = false;
})();
