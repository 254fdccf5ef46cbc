// The way of a slow request through the edge, drawn from its passport: what took how long.

import { useState } from 'preact/hooks'
import type { EdgeRequest } from './types'
import { Ago, Empty, Mark } from './ui'
import { seconds, when } from './format'

type Phase = 'read' | 'filters' | 'connect' | 'send' | 'wait' | 'answer'

const phases: [Phase, string][] = [['read', 'reading the request'], ['filters', 'filters'], ['connect', 'getting a connection'], ['send', 'sending it to the origin'], ['wait', 'waiting for the origin'], ['answer', 'passing the answer on']]

/** A part of a request's time, from its begin, in ms. */
export interface Span { phase: Phase; from: number; to: number; states: string[] }

// What a request does from each state on. A state that is not here changes nothing.
function after(state: string): Phase | undefined {
  if (state === 'IN_REQ_HEADERS_RECEIVED' || state === 'FILTERS_INBOUND_BUF_START') return 'read'
  if (state === 'FILTERS_INBOUND_START' || state === 'FILTERS_INBOUND_BUF_END' || state === 'FILTERS_OUTBOUND_START') return 'filters'
  if (state === 'ORIGIN_CONN_ACQUIRE_START' || state === 'ORIGIN_CH_CONNECTING' || state === 'ORIGIN_RETRY_START') return 'connect'
  if (state === 'OUT_REQ_LAST_CONTENT_SENT' || state === 'OUT_REQ_HEADERS_SENT') return 'wait'
  if (state.startsWith('OUT_REQ_') || state === 'ORIGIN_CONN_ACQUIRE_END') return 'send'
  if (state.startsWith('IN_RESP_') || state === 'FILTERS_OUTBOUND_END' || (state.startsWith('OUT_RESP_') && !state.endsWith('ERROR_SENDING'))) return 'answer'
  return undefined
}

/** The spans of a passport, such as "CurrentPassport {start_ms=..., [+0=IN_REQ_HEADERS_RECEIVED, ..., +812000=NOW]}". */
export function spansOf(passport: string): Span[] {
  const spans: Span[] = []
  for (const [, ns, state] of passport.matchAll(/\+(\d+)=([A-Z_]+)/g)) {
    const at = Number(ns) / 1e6
    const last = spans.at(-1)
    if (last) last.to = at
    const phase = after(state) ?? last?.phase ?? 'read'
    if (state !== 'NOW') {
      if (last?.phase === phase) last.states.push(state)
      else spans.push({ phase, from: at, to: at, states: [state] })
    }
  }
  return spans
}

const most = 12

export function SlowRequests({ lines, now }: { lines: EdgeRequest[]; now: number }) {
  const [open, setOpen] = useState<EdgeRequest>()
  const shown = lines.slice(0, most)
  if (open && !shown.some(l => l.id === open.id)) shown.push(open) // it stays while somebody reads it
  const longest = Math.max(1, ...shown.map(l => l.ms))
  return (
    <section class="panel" aria-labelledby="slow-title" data-testid="edge-slow">
      <div class="panel-head"><h2 id="slow-title">Slow requests</h2>{lines.length > 0 && <span class="quiet">{lines.length > most ? `the last ${most} of ${lines.length}` : 'the newest first'}, all to one scale</span>}</div>
      {lines.length === 0
        ? <Empty title="No request was slow.">One whose answer takes longer than <code>zuul.passport.log.request.time.threshold</code>, 1 s, to begin is shown here with its way. Send one with <code>X-Edge-Debug: 1</code> to see the way of any.</Empty>
        : <>
          <ul class="legend way-legend">{phases.map(([p, words]) => <li key={p}><svg width="12" height="12" viewBox="0 0 12 12" aria-hidden="true"><rect width="12" height="12" rx="3" class={`way-${p}`} /></svg>{words}</li>)}</ul>
          <ol class="ways">{shown.map(l => <Way key={l.id + l.ts} l={l} now={now} scale={longest} open={l.id === open?.id} toggle={on => setOpen(old => (on ? l : old?.id === l.id ? undefined : old))} />)}</ol>
        </>}
    </section>
  )
}

function Way({ l, now, scale, open, toggle }: { l: EdgeRequest; now: number; scale: number; open: boolean; toggle: (on: boolean) => void }) {
  const spans = spansOf(l.passport ?? '')
  const total = Math.max(l.ms, spans.at(-1)?.to ?? 0)
  const sums = phases.map(([p, words]) => ({ words, ms: spans.filter(s => s.phase === p).reduce((sum, s) => sum + s.to - s.from, 0) }))
  const longest = sums.reduce((a, b) => (b.ms > a.ms ? b : a))
  const failed = l.category.startsWith('FAILURE')
  const x = (ms: number) => (ms / scale) * 1000
  return (
    <li>
      <details open={open} onToggle={e => toggle(e.currentTarget.open)}>
        <summary>
          <span class="way-what"><Mark kind={l.status >= 500 || failed ? 'danger' : 'normal'} /> <b>{l.status || '–'}</b> <span class="name">{l.method} {l.path}</span></span>
          <span class="quiet way-to">{l.origin ?? l.route ?? 'no route'}{(l.attempts ?? 0) > 1 && `, ${l.attempts} attempts`}</span>
          <span class="quiet way-when"><Ago at={when(l.ts)} now={now} /></span>
          <svg class="way" viewBox="0 0 1000 12" preserveAspectRatio="none" role="img" aria-label={`${seconds(total / 1e3)}, of which ${seconds(longest.ms / 1e3)} ${longest.words}`}>
            {spans.map((s, i) => <rect key={i} x={x(s.from)} width={Math.max(1.2, x(s.to - s.from))} height="12" class={`way-${s.phase}`}><title>{`${phases.find(p => p[0] === s.phase)![1]}: ${seconds((s.to - s.from) / 1e3)}`}</title></rect>)}
          </svg>
          <span class="way-sum"><b>{seconds(total / 1e3)}</b>{longest.ms > 0 && <span class="quiet">, {seconds(longest.ms / 1e3)} of it {longest.words}</span>}</span>
        </summary>
        <div class="way-body">
          {l.error && <p class="bad">{l.error}</p>}
          <p class="quiet">Request <span class="name">{l.id}</span>{l.client && <> of <span class="name">{l.client}</span></>}: {l.category}</p>
          <div class="scroll"><table class="stamps">
            <caption class="hidden">The states that the request came by</caption>
            <thead><tr><th scope="col" class="num">At, ms</th><th scope="col" class="num">Took, ms</th><th scope="col">What</th><th scope="col">States</th></tr></thead>
            <tbody>{spans.map((s, i) => <tr key={i}><td class="num">{s.from.toFixed(2)}</td><td class="num">{(s.to - s.from).toFixed(2)}</td><td>{phases.find(p => p[0] === s.phase)![1]}</td><td class="name quiet">{s.states.join(', ')}</td></tr>)}</tbody>
          </table></div>
        </div>
      </details>
    </li>
  )
}
