// One graph over time, asked from telemetry in its stack language and drawn by uPlot.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import uPlot from 'uplot'
import type { GraphData } from './types'
import { get } from './api'
import { color, useWidth } from './ui'
import { percent, rate, seconds } from './format'

export type Unit = 'rate' | 'seconds' | 'share' | 'breaker'

const write: Record<Unit, (n: number | undefined) => string> = {
  rate: n => (n === undefined ? '–' : rate(n) + '/s'),
  seconds,
  share: percent,
  breaker: n => (n === undefined || !isFinite(n) ? '–' : (['closed', 'open', 'half-open'][Math.round(n)] ?? String(n))),
}

const dashes = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 2], [1, 4]]

interface Props {
  title: string
  unit: Unit
  query: string
  minutes: number
  theme: string
  name?: (legend: string) => string
  series?: (name: string) => string | undefined // a named colour for a line that means something
  occurring?: boolean // leaves out what did not happen: lines that are 0 all the time, if others are not
  none?: string // said when there is nothing to draw
}

export function Chart({ title, unit, query, minutes, theme, name = s => s, series, occurring, none = 'No data in this time.' }: Props) {
  const [box, width] = useWidth<HTMLDivElement>()
  const plot = useRef<uPlot | undefined>(undefined)
  const [data, setData] = useState<GraphData>()
  const [error, setError] = useState('')
  const [read, setRead] = useState(0) // when the data came; 0 = never
  useEffect(() => {
    const stop = new AbortController()
    const step = minutes <= 30 ? 5 : 60
    let timer = 0
    setData(undefined)
    const ask = async () => {
      if (!document.hidden) {
        try {
          const q = new URLSearchParams({ q: query, s: `e-${minutes}m`, step: `${step}s`, format: 'json' })
          const d = await get<GraphData>(`/api/v1/graph?${q}`, stop.signal)
          const known = { ...d, values: d.values ?? [], legend: d.legend ?? [] }
          setData(occurring ? withoutZeros(known) : known)
          setRead(Date.now())
          setError('')
        } catch (e) {
          if (stop.signal.aborted) return
          setError((e as Error).message)
        }
      }
      timer = window.setTimeout(ask, step === 5 ? 5_000 : 30_000)
    }
    ask()
    return () => {
      stop.abort()
      clearTimeout(timer)
    }
  }, [query, minutes])

  const size = useRef(0)
  size.current = width
  const names = (data?.legend ?? []).map(name)
  const key = names.join('|')
  const columns = useMemo(() => (data ? columnsOf(data) : undefined), [data])
  const empty = !columns || columns.slice(1).every(c => c.every(v => v === null))

  useEffect(() => {
    if (!box.current || !width || empty) return
    const css = getComputedStyle(document.body)
    const font = `11px ${css.fontFamily}`
    const palette = ['series-1', 'series-2', 'series-3', 'series-4', 'series-5', 'series-6']
    const axis = { stroke: color('quiet'), font, grid: { stroke: color('grid'), width: 1 }, ticks: { show: false } }
    const u = new uPlot({
      width: size.current, height: 190, padding: [10, 8, 0, 0],
      cursor: { sync: { key: 'time' }, points: { size: 7 }, y: false, drag: { x: false, y: false } },
      legend: { live: true, markers: { width: 2, dash: (_, i) => ['solid', 'dashed', 'dotted'][(i - 1) % 3] } },
      hooks: { setCursor: [u => u.cursor.idx == null && newest(u)], setData: [newest] },
      scales: {
        x: { time: true },
        y: { range: (_, min, max) => (unit === 'breaker' ? [0, 2] : [Math.min(0, min ?? 0), max && max > 0 ? max * 1.08 : 1]) },
      },
      axes: [
        { ...axis, space: 64, size: 28, values: (_, ticks) => ticks.map(t => clock(t, ticks)) },
        { ...axis, size: unit === 'breaker' ? 68 : 62, gap: 6, splits: unit === 'breaker' ? () => [0, 1, 2] : undefined, space: 34, values: (_, ticks) => ticks.map(t => (unit === 'rate' ? tick(t) : write[unit](t))) },
      ],
      series: [
        { label: 'Time', value: (_, t) => (t === null ? '–' : new Date(t * 1000).toLocaleTimeString()) },
        ...names.map((label, i) => {
          const tint = series?.(label) ?? palette[i % palette.length]
          return {
            label, stroke: color(tint), width: 1.6, dash: dashes[i % dashes.length], points: { show: false }, spanGaps: false,
            fill: names.length === 1 && unit !== 'breaker' ? color(tint, 0.12) : undefined,
            paths: unit === 'breaker' ? uPlot.paths.stepped!({ align: 1 }) : undefined,
            value: (_: uPlot, v: number | null) => write[unit](v ?? undefined),
          }
        }),
      ],
    }, columns as uPlot.AlignedData, box.current)
    plot.current = u
    return () => {
      u.destroy()
      plot.current = undefined
    }
  }, [key, width > 0, theme, unit, minutes, empty])
  useEffect(() => plot.current?.setSize({ width, height: 190 }), [width])
  useEffect(() => {
    if (columns && plot.current) plot.current.setData(columns as uPlot.AlignedData)
  }, [columns])

  const last = columns?.slice(1).map(c => (c as (number | null)[]).findLast(v => v !== null) ?? undefined)
  const told = empty ? 'no data' : names.map((n, i) => `${n} ${write[unit](last?.[i])}`).join(', ')
  return (
    <section class="panel chart" aria-label={title}>
      <div class="panel-head"><h2>{title}</h2>{error && read > 0 && <span class="stale">last data {new Date(read).toLocaleTimeString()}</span>}</div>
      <p class="hidden">Now: {told}</p>
      <div class="plot" ref={box} aria-hidden="true">
        {empty && <p class="plot-empty">{error || (data ? none : 'Reading…')}</p>}
      </div>
    </section>
  )
}

function withoutZeros(d: GraphData): GraphData {
  const kept = d.legend.map((_, k) => k).filter(k => d.values.some(row => typeof row[k] === 'number' && row[k] > 0))
  return kept.length ? { ...d, legend: kept.map(k => d.legend[k]), values: d.values.map(row => kept.map(k => row[k])) } : d
}

function columnsOf(d: GraphData): (number | null)[][] {
  const times = d.values.map((_, i) => (d.start + i * d.step) / 1000)
  return [times, ...d.legend.map((_, k) => d.values.map(row => (typeof row[k] === 'number' && isFinite(row[k] as number) ? (row[k] as number) : null)))]
}

// The legend shows what is under the pointer; without one, the newest values.
function newest(u: uPlot) {
  if (u.cursor.idx == null && u.data[0].length) u.setLegend({ idx: u.data[0].length - 1 }, false)
}

function clock(t: number, ticks: number[]): string {
  const fine = ticks.length > 1 && ticks[1] - ticks[0] < 60
  return new Date(t * 1000).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: fine ? '2-digit' : undefined, hourCycle: 'h23' })
}

function tick(n: number): string {
  return n >= 10 ? rate(n) : String(Number(n.toPrecision(3)))
}
