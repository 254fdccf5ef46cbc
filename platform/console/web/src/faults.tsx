// Faults on purpose: what is being injected into whose requests, until when; add one, end one.

import { useEffect, useState } from 'preact/hooks'
import type { Model } from './model'
import type { Fault, FaultCounts } from './types'
import { act, get } from './api'
import { type Ask, Empty, Mark } from './ui'
import { exact, span, when } from './format'

export function FaultsPage({ model, ask, available }: { model: Model; ask: (a: Ask) => void; available: boolean }) {
  // What makes load, such as the demo's population, is BULK: no customer would miss it.
  const { counts, on, look } = useInjection(available)
  const optional = model.services.filter(s => s.criticality !== 'CRITICAL' && s.criticality !== 'BULK')
  return (
    <>
      <div class="bar">
        <p class="quiet">Faults end by themselves. The edge marks the requests concerned; services obey the mark.</p>
        <div class="tools">
          {available && on && <button type="button" class={model.faults.length ? 'primary danger' : ''} data-testid="stop-all" onClick={() => ask(stopAll(look))}>Stop all</button>}
          {available && !on && <button type="button" data-testid="enable" onClick={() => ask(enable(look))}>Allow injection</button>}
          <button type="button" class="primary" disabled={!available || !on || optional.length === 0} data-testid="blackout" onClick={() => ask(blackout(optional.map(s => s.name)))}>Black out non-critical services</button>
          <button type="button" disabled={!available || !on || model.services.length === 0} data-testid="add-fault" onClick={() => ask(single(model.services.map(s => s.name)))}>Add a fault</button>
        </div>
      </div>
      <section class="panel" aria-label="Active faults">
        {!available && <Empty title="This platform injects no faults.">Its chaos role does not run, or has not answered yet.</Empty>}
        {available && !on && <Empty title="Injection is switched off, in every process.">Nothing is injected until somebody allows it again.</Empty>}
        {available && on && model.faults.length === 0 && <Empty title="No fault is being injected.">{optional.length > 0 && <>Not critical, so members should do without: {optional.map(s => s.name).join(', ')}.</>}</Empty>}
        {model.faults.length > 0 && (
          <table role="table" class="faults" data-testid="faults">
            <caption class="hidden">Active faults</caption>
            <thead><tr><th scope="col">Fault</th><th scope="col">Rules</th><th scope="col">Whose</th><th scope="col" class="num">Requests hit</th><th scope="col" class="num">Of them failed</th><th scope="col">Ends in</th><th scope="col">Owner</th><th scope="col">Why</th><th scope="col"><span class="hidden">Action</span></th></tr></thead>
            <tbody role="rowgroup">
              {model.faults.map(f => (
                <tr role="row" key={f.id} data-testid={`fault-${f.id}`}>
                  <th role="rowheader" scope="row"><Mark kind="warning" /> {f.description || f.id}{f.experiment && <small class="quiet"> experiment</small>}</th>
                  <td role="cell" data-label="Rules" class="name rules">{f.rules.split(';').map(r => <code key={r}>{r}</code>)}</td>
                  <td role="cell" data-label="Whose">{whose(f)}</td>
                  <td role="cell" data-label="Requests hit" class="num" data-testid={`hit-${f.id}`}>{tally(counts, f.id, c => c.injected.requests.toLocaleString('en'))}</td>
                  <td role="cell" data-label="Of them failed" class="num">{tally(counts, f.id, c => `${share(c.injected)}${c.control.requests ? `, else ${share(c.control)}` : ''}`)}</td>
                  <td role="cell" data-label="Ends in"><time dateTime={f.expires} title={exact(f.expires)}>{span((when(f.expires) ?? model.now) - model.now)}</time></td>
                  <td role="cell" data-label="Owner">{f.owner || f.actor || '–'}</td>
                  <td role="cell" data-label="Why" class="quiet">{f.why || '–'}</td>
                  <td role="cell" class="c-act"><button type="button" class="small" aria-label={`End ${f.description || f.id}`} data-testid={`remove-${f.id}`} onClick={() => ask({
                    title: 'End this fault?', text: <p>{f.description || f.id}: requests are spared at once.</p>, verb: 'End it', done: 'The fault has ended.',
                    do: why => act('DELETE', `/api/v1/faults/${encodeURIComponent(f.id)}`, why),
                  })}>End</button></td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </section>
    </>
  )
}

/** What the edge counted, and whether anything is injected at all; asked every two seconds while the page is shown. */
function useInjection(available: boolean) {
  const [counts, setCounts] = useState<FaultCounts[]>([])
  const [on, setOn] = useState(true)
  const [asked, setAsked] = useState(0)
  useEffect(() => {
    if (!available) return
    const end = new AbortController()
    const look = async () => {
      // Either may be away for a moment; what was known stays.
      await get<FaultCounts[]>('/api/v1/edge/faults', end.signal).then(setCounts, () => {})
      await get<{ properties?: Record<string, string> }>('/config/v1/resolve?prefix=ipc.fit.enabled', end.signal).then(r => setOn(r.properties?.['ipc.fit.enabled'] !== 'false'), () => {})
    }
    look()
    const every = setInterval(look, 2000)
    return () => { clearInterval(every); end.abort() }
  }, [available, asked])
  return { counts, on, look: () => setAsked(n => n + 1) }
}

function tally(counts: FaultCounts[], id: string, say: (c: FaultCounts) => string): string {
  const c = counts.find(c => c.id === id)
  return c ? say(c) : '–'
}

function share(of: { requests: number; failed: number }): string {
  return of.requests ? `${(100 * of.failed / of.requests).toLocaleString('en', { maximumFractionDigits: 1 })} %` : '–'
}

/** Whose requests a fault hits, and where, in words. */
function whose(f: Fault): string {
  const parts = [...(f.who?.users ?? []), ...(f.who?.devices ?? []), ...Object.entries(f.who?.header ?? {}).map(([k, v]) => `${k}: ${v}`)]
  const words = parts.length > 3 ? `${parts.slice(0, 3).join(', ')} and ${parts.length - 3} more` : parts.join(', ')
  const percent = f.who?.percent ?? 100
  const places = [...(f.where?.zones ?? []), ...(f.where?.clusters ?? []), ...(f.where?.routes ?? [])]
  return [words, percent < 100 || !words ? `${percent} % of users` : '', places.length ? `in ${places.join(', ')}` : ''].filter(Boolean).join(', ')
}

function stopAll(look: () => void): Ask {
  return {
    title: 'Stop all injection?', text: <p>Within a second no process injects anything, and all faults have ended. Nothing can be added until injection is allowed again.</p>,
    verb: 'Stop all', dangerous: true, done: 'Nothing is injected any more.', do: why => act('DELETE', '/api/v1/faults', why).then(look),
  }
}

function enable(look: () => void): Ask {
  return { title: 'Allow injection again?', text: <p>Faults can be added again. None begins by itself.</p>, verb: 'Allow', done: 'Faults can be added again.', do: why => act('POST', '/api/v1/faults/enable', why).then(look) }
}

interface Plan { minutes: number; percent: number; service: string; action: string; delay: number; status: number }

function expiry(minutes: number): string {
  return new Date(Date.now() + minutes * 60_000).toISOString().replace(/\.\d+Z$/, 'Z')
}

// The dialog's fields write into plan; nothing but them reads it before the dialog is confirmed.
function blackout(names: string[]): Ask {
  const plan = { minutes: 5, percent: 100 }
  return {
    title: 'Black out non-critical services?',
    text: <p>Every call to {names.join(', ')} fails. Whoever calls them should answer from a fallback, and members should hardly notice.</p>,
    verb: 'Black out', dangerous: true, done: 'The fault is active.',
    fields: <div class="row"><Duration plan={plan} /><Percent plan={plan} /></div>,
    do: why => act('POST', '/api/v1/faults', why, {
      description: 'Non-critical services blacked out', rules: names.map(n => `client:${n}=error(503)@100`).join(';'), who: { percent: plan.percent }, expires: expiry(plan.minutes),
    }),
  }
}

function single(names: string[]): Ask {
  const plan: Plan = { minutes: 5, percent: 100, service: names[0], action: 'delay', delay: 300, status: 503 }
  return {
    title: 'Add a fault', text: <p>Calls to one service become slow or fail.</p>, verb: 'Add', dangerous: true, done: 'The fault is active.',
    fields: <Fields plan={plan} names={names} />,
    do: why => act('POST', '/api/v1/faults', why, {
      description: plan.action === 'delay' ? `${plan.service} slow by ${plan.delay} ms` : `${plan.service} fails with ${plan.status}`,
      rules: `client:${plan.service}=${plan.action === 'delay' ? `delay(${plan.delay}ms)` : `error(${plan.status})`}@100`,
      who: { percent: plan.percent }, expires: expiry(plan.minutes),
    }),
  }
}

function Fields({ plan, names }: { plan: Plan; names: string[] }) {
  const [action, setAction] = useState(plan.action)
  return (
    <>
      <div class="row">
        <label class="field"><span>Service</span><select onChange={e => (plan.service = e.currentTarget.value)}>{names.map(n => <option key={n}>{n}</option>)}</select></label>
        <label class="field"><span>What happens</span><select value={action} onChange={e => setAction((plan.action = e.currentTarget.value))}><option value="delay">calls are slow</option><option value="error">calls fail</option></select></label>
        {action === 'delay'
          ? <label class="field"><span>By, ms</span><input type="number" min={1} max={60000} defaultValue={plan.delay} required onInput={e => (plan.delay = e.currentTarget.valueAsNumber)} /></label>
          : <label class="field"><span>HTTP status</span><input type="number" min={400} max={599} defaultValue={plan.status} required onInput={e => (plan.status = e.currentTarget.valueAsNumber)} /></label>}
      </div>
      <div class="row"><Duration plan={plan} /><Percent plan={plan} /></div>
    </>
  )
}

function Duration({ plan }: { plan: { minutes: number } }) {
  return (
    <label class="field"><span>For</span>
      <select onChange={e => (plan.minutes = Number(e.currentTarget.value))} data-testid="duration">{[1, 5, 15, 60].map(m => <option key={m} value={m} selected={m === plan.minutes}>{m === 60 ? '1 hour' : m === 1 ? '1 minute' : `${m} minutes`}</option>)}</select>
    </label>
  )
}

function Percent({ plan }: { plan: { percent: number } }) {
  return <label class="field"><span>Of users, %</span><input type="number" min={0.01} max={100} step="any" defaultValue={plan.percent} required onInput={e => (plan.percent = e.currentTarget.valueAsNumber)} /></label>
}
