// A layered layout after Sugiyama, Tagawa and Toda (1981): calls point from left to right, or from top to bottom.
//
//   1. a depth-first walk from the entry turns the edges that close a circle around;
//   2. each node's layer is its longest path from the entry;
//   3. an edge over several layers gets a bend in each layer between, so that it passes beside the nodes there;
//   4. sweeps order each layer by the mean of its neighbours (barycentres), which leaves few crossings;
//   5. positions across the layers come as near to the neighbours' mean as order and distances allow.
//
// The result depends only on what is given, not on the order in which it was found, so nodes keep their places.

export interface Box { w: number; h: number }

export interface Placed {
  at: Map<string, Point> // middle of each node
  paths: Map<string, Point[]> // by edge id: bends between source and target, in their order
  width: number
  height: number
  vertical: boolean
  node: Box
}

export interface Point { x: number; y: number }

export interface Line { source: string; target: string }

export const edgeId = (e: Line) => `${e.source}--${e.target}`

interface Cell { id: string; node: boolean; layer: number; before: Cell[]; after: Cell[]; order: number; pos: number }

/**
 * Places nodes in a width, and a height that is used if there is so much: from left to right if each layer has room for a node of the least size, else from top to bottom.
 */
export function place(names: string[], lines: Line[], entry: string, width: number, room: number, least: Box, gap: number): Placed {
  const order = [...names].sort((a, b) => Number(b === entry) - Number(a === entry) || a.localeCompare(b))
  const layerOf = layers(order, lines)
  const depth = Math.max(0, ...layerOf.values()) + 1
  const between = gap * 2.7 // what an edge needs to be seen
  if (depth * least.w + (depth - 1) * between > width) return stack(order, layerOf, depth, width, least, gap)
  const node = { w: Math.round(Math.max(least.w, Math.min(least.w * 1.25, (width - (depth - 1) * gap * 4.5) / depth))), h: least.h } // where there is room it goes to the edges first
  return spread(order, lines, layerOf, depth, width, room, node, gap)
}

function layers(names: string[], lines: Line[]): Map<string, number> {
  const out = new Map<string, string[]>(names.map(n => [n, []]))
  for (const l of [...lines].sort((a, b) => edgeId(a).localeCompare(edgeId(b)))) {
    if (l.source !== l.target && out.has(l.source) && out.has(l.target)) out.get(l.source)!.push(l.target)
  }
  const state = new Map<string, 'open' | 'done'>()
  const finished: string[] = [] // callees before callers
  const forward = new Map<string, string[]>(names.map(n => [n, []]))
  const visit = (n: string) => {
    state.set(n, 'open')
    for (const t of out.get(n)!) {
      if (state.get(t) === 'open') continue // would close a circle
      forward.get(n)!.push(t)
      if (!state.has(t)) visit(t)
    }
    state.set(n, 'done')
    finished.push(n)
  }
  const called = new Set(lines.map(l => l.target))
  for (const n of names) if (!called.has(n) && !state.has(n)) visit(n)
  for (const n of names) if (!state.has(n)) visit(n)
  const layer = new Map(names.map(n => [n, 0]))
  for (const n of finished.reverse()) for (const t of forward.get(n)!) layer.set(t, Math.max(layer.get(t)!, layer.get(n)! + 1))
  // What nobody calls and calls nobody stands at the end, not beside the entry.
  const depth = Math.max(0, ...layer.values())
  for (const n of names) if (!called.has(n) && out.get(n)!.length === 0) layer.set(n, depth)
  return layer
}

function spread(names: string[], lines: Line[], layerOf: Map<string, number>, depth: number, width: number, room: number, node: Box, gap: number): Placed {
  const cells = new Map<string, Cell>(names.map(id => [id, { id, node: true, layer: layerOf.get(id)!, before: [], after: [], order: 0, pos: 0 }]))
  const rows: Cell[][] = Array.from({ length: depth }, () => [])
  for (const c of cells.values()) rows[c.layer].push(c)
  const bends = new Map<string, Cell[]>()
  for (const l of lines) {
    const [a, b] = [cells.get(l.source), cells.get(l.target)]
    if (!a || !b || a === b) continue
    const back = a.layer > b.layer
    const [from, to] = back ? [b, a] : [a, b]
    const chain: Cell[] = []
    let last = from
    for (let layer = from.layer + 1; layer < to.layer; layer++) {
      const bend: Cell = { id: `${edgeId(l)}@${layer}`, node: false, layer, before: [last], after: [], order: 0, pos: 0 }
      last.after.push(bend)
      rows[layer].push(bend)
      chain.push(bend)
      last = bend
    }
    if (from.layer !== to.layer) {
      last.after.push(to)
      to.before.push(last)
    }
    bends.set(edgeId(l), back ? chain.reverse() : chain)
  }
  rows.forEach(row => row.forEach((c, i) => (c.order = i)))
  let best = rows.map(row => [...row])
  let fewest = crossings(rows)
  for (let sweep = 0; sweep < 12 && fewest > 0; sweep++) {
    const down = sweep % 2 === 0
    for (const row of down ? rows : [...rows].reverse()) {
      const want = new Map(row.map(c => [c, mean((down ? c.before : c.after).map(n => n.order)) ?? c.order]))
      row.sort((a, b) => want.get(a)! - want.get(b)! || a.order - b.order)
      row.forEach((c, i) => (c.order = i))
    }
    const now = crossings(rows)
    if (now < fewest) [fewest, best] = [now, rows.map(row => [...row])]
  }
  best.forEach(row => row.forEach((c, i) => (c.order = i)))
  const tall = (c: Cell) => (c.node ? node.h : 12)
  const apart = (a: Cell, b: Cell) => (tall(a) + tall(b)) / 2 + gap
  for (const row of best) for (let i = 1; i < row.length; i++) row[i].pos = row[i - 1].pos + apart(row[i - 1], row[i])
  for (let round = 0; round < 24; round++) {
    for (const row of round % 2 ? [...best].reverse() : best) settle(row, apart)
  }
  // A row of one stands level with what it calls, so that the way in is straight.
  for (const row of [...best].reverse()) if (row.length === 1 && row[0].after.length === 1) row[0].pos = row[0].after[0].pos
  const all = best.flat()
  // Where there is room the picture takes it, up to twice as much.
  const first = Math.min(...all.map(c => c.pos))
  const reach = Math.max(...all.map(c => c.pos)) - first
  const wider = reach > 0 ? Math.min(2, Math.max(1, (room - node.h) / reach)) : 1
  for (const c of all) c.pos = first + (c.pos - first) * wider
  const top = Math.min(...all.map(c => c.pos - tall(c) / 2))
  const bottom = Math.max(...all.map(c => c.pos + tall(c) / 2))
  const step = depth > 1 ? (width - node.w) / (depth - 1) : 0
  const x = (layer: number) => (depth > 1 ? node.w / 2 + layer * step : width / 2)
  return {
    at: new Map([...cells].map(([id, c]) => [id, { x: x(c.layer), y: c.pos - top }])),
    paths: new Map([...bends].map(([id, chain]) => [id, chain.flatMap(c => {
      const ends = [-0.4, 0.4].map(k => ({ x: x(c.layer) + k * node.w, y: c.pos - top }))
      return chain.length > 1 && chain[0].layer > chain[1].layer ? ends.reverse() : ends
    })])),
    width, height: bottom - top, vertical: false, node,
  }
}

// Rows of as many nodes as fit, layer under layer: for narrow screens.
function stack(names: string[], layerOf: Map<string, number>, depth: number, width: number, node: Box, gap: number): Placed {
  const at = new Map<string, Point>()
  const fit = Math.max(1, Math.floor((width + gap) / (node.w + gap)))
  let y = node.h / 2
  for (let layer = 0; layer < depth; layer++) {
    const row = names.filter(n => layerOf.get(n) === layer)
    for (let i = 0; i < row.length; i += fit) {
      const part = row.slice(i, i + fit)
      const wide = part.length * node.w + (part.length - 1) * gap
      part.forEach((n, k) => at.set(n, { x: (width - wide) / 2 + node.w / 2 + k * (node.w + gap), y }))
      y += node.h + (i + fit < row.length ? gap * 1.2 : gap * 2.4)
    }
  }
  return { at, paths: new Map(), width, height: Math.max(0, y - node.h / 2 - gap * 2.4), vertical: true, node }
}

function mean(xs: number[]): number | undefined {
  return xs.length ? xs.reduce((a, b) => a + b, 0) / xs.length : undefined
}

function crossings(rows: Cell[][]): number {
  let n = 0
  for (const row of rows) {
    const ends = row.flatMap(c => c.after.map(t => [c.order, t.order]))
    for (let i = 0; i < ends.length; i++) {
      for (let j = i + 1; j < ends.length; j++) if ((ends[i][0] - ends[j][0]) * (ends[i][1] - ends[j][1]) < 0) n++
    }
  }
  return n
}

// settle moves a row's cells as near to the mean of their neighbours as order and distances allow: least squares with
// order constraints, solved by pooling neighbours that would overlap (pool adjacent violators).
function settle(row: Cell[], apart: (a: Cell, b: Cell) => number) {
  let offset = 0
  const pools: { sum: number; weight: number; cells: { c: Cell; offset: number }[] }[] = []
  row.forEach((c, i) => {
    if (i) offset += apart(row[i - 1], c)
    const want = mean([...c.before, ...c.after].map(n => n.pos)) ?? c.pos
    const weight = c.node ? 1 : 3 // long edges like to be straight
    pools.push({ sum: (want - offset) * weight, weight, cells: [{ c, offset }] })
    for (let last = pools.length - 1; last > 0 && pools[last - 1].sum / pools[last - 1].weight > pools[last].sum / pools[last].weight; last--) {
      const p = pools.pop()!
      pools[last - 1].sum += p.sum
      pools[last - 1].weight += p.weight
      pools[last - 1].cells.push(...p.cells)
    }
  })
  for (const p of pools) for (const { c, offset } of p.cells) c.pos = p.sum / p.weight + offset
}
