// The live overview: one event stream, kept alive, and what the last two minutes looked like.

import { useEffect, useState } from 'preact/hooks'
import type { Overview } from './types'
import { refusal } from './api'
import { type Model, modelOf } from './model'

export interface Live {
  overview?: Overview
  model?: Model
  at: number // when the newest overview came, by this browser's clock; 0 = never
  lost: boolean
  refused: string // why the platform will not show us the overview, in a sentence
  past: Moment[] // oldest first
  said: string // the newest change of state in words, for those who listen
}

export interface Moment { rps: number; success: number; p99: number; up: number; members: number }

const remembered = 120 // seconds
const lostAfter = 4_000
const renewAfter = 15_000
const retryAfter = 5_000 // one that was refused
const path = '/api/v1/overview/stream'
const sleepAfter = 15_000 // a hidden page stops asking; browsers allow few connections to one place

let live: Live = { at: 0, lost: false, refused: '', past: [], said: '' }
const listeners = new Set<() => void>()
let source: EventSource | undefined
let opened = 0

function set(next: Partial<Live>) {
  live = { ...live, ...next }
  listeners.forEach(f => f())
}

function open() {
  source?.close()
  opened = Date.now()
  const mine = (source = new EventSource(path))
  mine.addEventListener('overview', e => see(JSON.parse((e as MessageEvent<string>).data) as Overview))
  // Only the parts that changed since the event before.
  mine.addEventListener('change', e => see({ ...live.overview, ...(JSON.parse((e as MessageEvent<string>).data) as Overview) }))
  // An EventSource does not tell what it was answered.
  mine.addEventListener('error', async () => {
    const refused = mine.readyState === EventSource.CLOSED ? await refusal(path) : ''
    if (source === mine) set({ refused })
  })
}

function see(overview: Overview) {
  const model = modelOf(overview)
  const m: Moment = {
    rps: model.entry.rps, success: model.entry.rps ? 1 - model.entry.danger : NaN, p99: model.entry.p99 ?? NaN, up: model.up,
    members: model.members ? 1 - model.members.danger : NaN,
  }
  set({ overview, model, at: Date.now(), lost: false, refused: '', past: [...live.past, m].slice(-remembered), said: news(live.model, model) || live.said })
}

function close() {
  source?.close()
  source = undefined
}

/** Starts the stream and keeps it. Called once. */
export function connect() {
  open()
  let asleep: number | undefined
  document.addEventListener('visibilitychange', () => {
    clearTimeout(asleep)
    if (document.hidden) asleep = window.setTimeout(close, sleepAfter)
    else if (!source) open()
  })
  setInterval(() => {
    if (!source) return
    const silent = Date.now() - Math.max(live.at, opened)
    if (Date.now() - (live.at || opened) > lostAfter) set({ lost: true })
    if (source.readyState === EventSource.CLOSED ? silent > (live.refused ? retryAfter : 2_000) : silent > renewAfter) open()
  }, 1_000)
}

export function useLive(): Live {
  const [, again] = useState(0)
  useEffect(() => {
    const f = () => again(n => n + 1)
    listeners.add(f)
    return () => void listeners.delete(f)
  }, [])
  return live
}

// What is worth saying aloud: instances that changed state, faults that came and went.
function news(before: Model | undefined, after: Model): string {
  if (!before) return ''
  const said: string[] = []
  const states = (m: Model) => new Map(m.services.flatMap(s => s.instances).map(i => [i.id, i.status]))
  const [old, now] = [states(before), states(after)]
  const changed = [...now].filter(([id, status]) => old.get(id) !== status).map(([id, status]) => `${id} is ${status}`)
  changed.push(...[...old.keys()].filter(id => !now.has(id)).map(id => `${id} is gone`))
  said.push(...(changed.length > 3 ? [`${changed.length} instances changed state; ${after.up} of ${after.total} are up`] : changed))
  const had = new Set(before.faults.map(f => f.id))
  const have = new Set(after.faults.map(f => f.id))
  after.faults.filter(f => !had.has(f.id)).forEach(f => said.push(`fault ${f.description || f.id} is active`))
  before.faults.filter(f => !have.has(f.id)).forEach(f => said.push(`fault ${f.description || f.id} has ended`))
  return said.join('. ')
}
