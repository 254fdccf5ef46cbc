// Roll-outs: a change of properties on its way from a few instances to everybody, how those it reached fare against the
// others, and the button that stops it.

import { useState } from 'preact/hooks'
import type { Listing, Rollout } from './types'
import { type Model, list } from './model'
import { act, send } from './api'
import { Ago, type Ask, Empty, Mark, useRead } from './ui'
import { For } from './scope'
import { ConfigTabs, Key, lastEdit, propertyHref, Value } from './config'
import { count, exact, percent, span, when } from './format'
import type { Class } from './types'

export function rolloutHref(id: string): string {
  return `#/config/rollouts/${encodeURIComponent(id)}`
}

/** Whether a roll-out has its end still before it. */
export function underWay(r: Rollout): boolean {
  return r.state !== 'DONE' && r.state !== 'ROLLED_BACK'
}

/** What a roll-out is called: its title, else what it changes. */
export function titleOf(r: Rollout): string {
  const keys = list(r.changes).map(c => c.record.key)
  return r.title || (keys.length > 1 ? `${keys[0]} and ${keys.length - 1} more` : keys[0] ?? r.id)
}

/** Where a roll-out stands, in words. */
export function standing(r: Rollout): [Class | 'idle', string] {
  switch (r.state) {
    case 'VALIDATED': return ['idle', 'ready to start']
    case 'RUNNING': return ['normal', r.phase === 'APPLYING' ? 'reaching its readers' : r.phase === 'ANALYSING' ? 'being judged' : 'being watched']
    case 'PAUSED': return ['warning', r.phase === 'AWAITING_APPROVAL' ? 'waits for approval' : r.phase === 'CONFLICT' ? 'paused: somebody changed the record' : 'paused']
    case 'FOLDING': return ['normal', 'everybody has it; being written']
    case 'UNFOLDING': return ['warning', 'being taken back']
    case 'DONE': return ['normal', 'done']
    case 'ROLLED_BACK': return ['danger', r.step < 0 ? 'discarded' : 'rolled back']
  }
  return ['idle', String(r.state).toLowerCase()]
}

/** Whom a step reaches, in words: "percent:5,zone:first" is 5 % of the zone of the first instance. */
export function selects(selector: string): string {
  if (selector === 'all') return 'everybody'
  const parts = new Map(selector.split(',').map(p => [p.slice(0, p.indexOf(':')), p.slice(p.indexOf(':') + 1)] as [string, string]))
  if (parts.has('instances')) return count(Number(parts.get('instances')), 'instance')
  const where = [['zone', 'zone'], ['region', 'region'], ['asg', 'server group']].flatMap(([k, name]) => {
    const v = parts.get(k)
    return v === undefined ? [] : [v === 'first' ? `the ${name} of the first instance` : v.startsWith(name) ? v : `${name} ${v}`]
  }).join(' and ')
  const share = parts.get('percent')
  return share ? `${share} % of ${where || 'all instances'}` : where || selector
}

function State({ r }: { r: Rollout }) {
  const [kind, words] = standing(r)
  return <span class={`standing ${kind}`}>{kind === 'idle' ? null : <Mark kind={kind} />}{words}</span>
}

export function RolloutsPage({ model, ask }: { model: Model; ask: (a: Ask) => void }) {
  const [whole, setWhole] = useState(false)
  const older = useRead<{ rollouts: Rollout[] }>(whole ? '/config/v1/rollouts' : '', 60_000, lastEdit(model))
  const all = model.rollouts && [...model.rollouts, ...list(older.data?.rollouts).filter(r => !model.rollouts!.some(m => m.id === r.id))]
  return (
    <>
      <ConfigTabs at="rollouts" model={model} />
      <Freeze model={model} ask={ask} />
      <section class="panel" aria-labelledby="rollouts-title">
        <div class="panel-head"><h2 id="rollouts-title">Roll-outs</h2>{all && all.length > 0 && <span class="quiet">the newest first</span>}</div>
        {!all && <Empty title="This platform rolls nothing out.">Its properties role does not run, or has not answered yet.</Empty>}
        {all && all.length === 0 && <Empty title="Nothing was rolled out in stages yet.">Change a property and choose “in stages”: one instance gets the new value first, then a part of its zone, and so on. When those it reached fare worse than the others, it is taken back by itself. The same by command: <code>roadbed rollout create KEY VALUE</code></Empty>}
        {all && all.length > 0 && (
          <table role="table" class="cards rollouts" data-testid="rollouts">
            <caption class="hidden">Roll-outs, the newest first</caption>
            <thead><tr><th scope="col" class="c-title">Roll-out</th><th scope="col" class="c-standing">Stands</th><th scope="col" class="c-step">Step</th><th scope="col" class="c-when">Since</th><th scope="col" class="c-by">By</th><th scope="col" class="c-why">Why it stands there</th></tr></thead>
            <tbody role="rowgroup">{all.map(r => (
              <tr role="row" key={r.id} data-testid={`rollout-${r.id}`}>
                <th role="rowheader" scope="row"><a href={rolloutHref(r.id)}><Key of={titleOf(r)} /></a></th>
                <td role="cell" data-label="Stands"><State r={r} /></td>
                <td role="cell" data-label="Step">{r.step < 0 ? `none of ${r.steps.length}` : `${r.step + 1} of ${r.steps.length}: ${selects(r.steps[r.step].selector)}`}</td>
                <td role="cell" data-label="Since"><Ago at={when(r.since)} now={model.now} /></td>
                <td role="cell" data-label="By" class="ellipsis">{r.actor}</td>
                <td role="cell" data-label="Why it stands there" class="quiet">{r.reason || r.why || '–'}</td>
              </tr>
            ))}</tbody>
          </table>
        )}
        {older.error && <p class="problem" role="alert">{older.error}</p>}
        {!whole && model.olderRollouts > 0 && <p class="more"><button type="button" onClick={() => setWhole(true)}>{count(model.olderRollouts, 'older roll-out')}</button></p>}
      </section>
    </>
  )
}

/** Says that changes are frozen, by whom and why, and ends or begins that. */
export function Freeze({ model, ask, offer = true }: { model: Model; ask: (a: Ask) => void; offer?: boolean }) {
  const { data, again } = useRead<Listing>('/config/v1/properties?prefix=cfg.freeze.', 15_000, lastEdit(model))
  const brakes = list(data?.properties).filter(p => !/^(false|no|off|0)$/i.test(p.value.trim()))
  const doing = (a: Ask) => ask({ ...a, do: why => a.do(why).finally(again) })
  const whom = (key: string) => (key === 'cfg.freeze.all' ? 'All changes are' : `Changes of env ${key.slice('cfg.freeze.'.length)} are`)
  if (brakes.length === 0) {
    return !offer ? null : (
      <div class="bar">
        <p class="quiet">A roll-out goes from a few instances to all, and goes back by itself when they suffer.</p>
        <div class="tools"><button type="button" data-testid="freeze" onClick={() => doing({
          title: 'Freeze all changes?', dangerous: true, verb: 'Freeze', done: 'Changes are frozen.',
          text: <p>No property can be changed and no roll-out takes a step until somebody ends it. Stopping a roll-out stays possible. In an emergency <code>roadbed config set … --break-glass</code> goes through, and the change log says so.</p>,
          do: why => act('POST', '/config/v1/properties', why, { key: 'cfg.freeze.all', value: 'true', type: 'bool', sourceOfUpdate: 'ui' }),
        })}>Freeze all changes</button></div>
      </div>
    )
  }
  return (
    <div class="brakes">{brakes.map(p => (
      <p class="notice" key={p.key} data-testid="frozen"><Mark kind="warning" size={12} /><span><b role="alert">{whom(p.key)} frozen.</b> <span>By {p.updatedBy || 'somebody'} <Ago at={p.ts} now={model.now} />: no property is changed, no roll-out takes a step. Stopping one stays possible.</span></span>
        <button type="button" class="small" data-testid="unfreeze" onClick={() => doing({
          title: 'Let changes go on?', verb: 'Go on', done: 'Changes go on.', text: <p>Properties can be changed again, and roll-outs go on where they were.</p>,
          do: why => act('DELETE', `/config/v1/properties/${encodeURIComponent(p.propertyId)}`, why, undefined, p.rev),
        })}>End it</button></p>
    ))}</div>
  )
}

const buttons: Record<string, string[]> = {
  VALIDATED: ['start', 'abort'], RUNNING: ['pause', 'advance', 'abort'], PAUSED: ['resume', 'advance', 'abort'],
  'PAUSED AWAITING_APPROVAL': ['approve', 'abort'], 'PAUSED CONFLICT': ['resume', 'abort'], FOLDING: ['abort'],
}

function command(r: Rollout, verb: string): Ask & { label: string } {
  const next = r.steps[r.step + 1]
  const goes = next ? `Next: ${selects(next.selector)}.` : 'It has reached everybody, so it is written for good.'
  const ask = (label: string, title: string, text: string, done: string, dangerous = false) => ({
    label, title, text: <p>{text}</p>, verb: label, done, dangerous, do: (why: string) => act('POST', `/config/v1/rollouts/${encodeURIComponent(r.id)}/${verb}`, why),
  })
  switch (verb) {
    case 'start': return ask('Start', 'Start this roll-out?', goes, 'The roll-out has started.')
    case 'pause': return ask('Pause', 'Pause here?', 'Whoever has it keeps it, and it reaches nobody else until somebody resumes it.', 'The roll-out is paused.')
    case 'resume': return r.phase === 'CONFLICT'
      ? ask('Overwrite', 'Overwrite what somebody changed?', 'Somebody changed a record since this roll-out began. To go on is to replace that.', 'The roll-out goes on.', true)
      : ask('Resume', 'Go on?', 'It goes on from the beginning of its step.', 'The roll-out goes on.')
    case 'advance': return ask('Next step', 'Go on without waiting?', `The watch over this step ends now. ${goes}`, 'It took the next step.')
    case 'approve': return ask('Approve', 'Approve the next step?', goes, 'It took the next step.')
  }
  return r.state === 'VALIDATED'
    ? ask('Discard', 'Discard this roll-out?', 'It has reached nobody yet.', 'The roll-out is discarded.', true)
    : ask('Stop and take back', 'Stop it, and take it back?', 'Everybody sees again what was before, within moments. It cannot be resumed.', 'It is taken back.', true)
}

export function RolloutPage({ id, model, ask }: { id: string; model: Model; ask: (a: Ask) => void }) {
  const listed = model.rollouts?.find(r => r.id === id)
  const read = useRead<Rollout>(listed ? '' : `/config/v1/rollouts/${encodeURIComponent(id)}`, 2_000)
  const r = listed ?? read.data
  if (!r) return <div class="panel">{read.error ? <Empty title={read.error}><a href="#/config/rollouts">All roll-outs</a></Empty> : <p class="calm">Reading the roll-out…</p>}</div>
  const can = buttons[`${r.state} ${r.phase ?? ''}`.trim()] ?? buttons[r.state] ?? []
  return (
    <>
      <div class="bar">
        <p class="numbers" data-testid="standing"><State r={r} /><span>since <Ago at={when(r.since)} now={model.now} /></span><span>by {r.actor}</span></p>
        <div class="tools">{can.map(verb => {
          const a = command(r, verb)
          return <button type="button" key={verb} class={a.dangerous && verb === 'abort' ? 'primary danger' : verb === 'start' || verb === 'approve' ? 'primary' : ''} onClick={() => ask(a)} data-testid={`do-${verb}`}>{a.label}</button>
        })}</div>
      </div>
      <Freeze model={model} ask={ask} offer={false} />
      {r.reason && (r.state === 'PAUSED' || r.state === 'ROLLED_BACK' || r.state === 'UNFOLDING') && <p class={`notice ${r.state === 'ROLLED_BACK' && r.step >= 0 ? 'danger' : 'plain'}`} role="status" data-testid="reason"><Mark kind={r.state === 'ROLLED_BACK' && r.step >= 0 ? 'danger' : r.state === 'PAUSED' ? 'warning' : 'normal'} size={12} /><span><b>Why it stands there:</b> {r.reason}</span></p>}
      <Steps r={r} now={model.now} />
      {underWay(r) && r.status && <Fares r={r} />}
      <Changes r={r} />
      <Story r={r} now={model.now} />
    </>
  )
}

// Go writes durations as "5m0s".
function bakeOf(text = ''): number {
  const unit: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }
  return [...text.matchAll(/([\d.]+)(ms|h|m|s)/g)].reduce((sum, [, n, u]) => sum + Number(n) * unit[u], 0)
}

function Steps({ r, now }: { r: Rollout; now: number }) {
  const over = r.state === 'DONE' || r.state === 'FOLDING'
  const began = r.history?.findLast(h => h.step === r.step && h.phase === 'BAKING')?.at
  return (
    <section class="panel" aria-labelledby="steps-title">
      <div class="panel-head"><h2 id="steps-title">Steps</h2></div>
      <ol class="steps" data-testid="steps">
        {r.steps.map((s, i) => {
          const bake = bakeOf(s.bake)
          const here = i === r.step && underWay(r) && r.state !== 'FOLDING'
          const past = i < r.step || (over && i <= r.step)
          const stopped = r.state === 'ROLLED_BACK' && i === r.step
          const until = here && r.phase === 'BAKING' ? when(r.status?.until) ?? (began ? when(began)! + bake : undefined) : undefined
          const share = until && bake ? Math.min(1, Math.max(0, 1 - (until - now) / bake)) : 0
          return (
            <li key={i} class={past ? 'past' : here ? 'here' : stopped ? 'stopped' : 'ahead'} aria-current={here ? 'step' : undefined}>
              <span class="step-mark" aria-hidden="true">{past ? '✓' : stopped ? '✕' : i + 1}</span>
              <span class="step-who"><span class="hidden">{past ? 'Done: ' : here ? 'Now: ' : stopped ? 'Stopped at: ' : 'Ahead: '}</span><b>{selects(s.selector)}</b>{s.approval === 'manual' && <span class="chip">after approval</span>}{i === 0 && r.chosen && r.chosen.length > 0 && <small class="quiet name"> {r.chosen.slice(0, 3).join(', ')}{r.chosen.length > 3 && ` and ${r.chosen.length - 3} more`}</small>}</span>
              <span class="step-bake quiet">{here && r.status?.waiting ? r.status.waiting : until ? <>{until > now ? `watched for another ${span(until - now)}` : 'watched long enough'}</> : `watched for ${span(bake)}`}</span>
              <svg class="step-bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><rect width="100" height="4" class="ground" /><rect width={past ? 100 : here && r.phase === 'ANALYSING' ? 100 : share * 100} height="4" class="part" /></svg>
            </li>
          )
        })}
      </ol>
    </section>
  )
}

// How those fare who see the change, against those who do not.
function Fares({ r }: { r: Rollout }) {
  const s = r.status!
  const flaws = list(s.flaws)
  const g = r.guards?.health
  return (
    <section class="panel" aria-labelledby="fares-title">
      <div class="panel-head"><h2 id="fares-title">How they fare</h2><span class="quiet">since this step began</span></div>
      <table class="fares" data-testid="fares">
        <caption class="hidden">Instances that see the change and instances that do not</caption>
        <thead><tr><th scope="col">Instances</th><th scope="col" class="num">Number</th><th scope="col" class="num">Lost</th><th scope="col" class="num">Share</th></tr></thead>
        <tbody>
          <tr><th scope="row">{s.lost > 0 && <Mark kind="danger" />} that see it</th><td class="num">{s.reached.toLocaleString('en')}</td><td class={`num ${s.lost ? 'bad' : ''}`}>{s.lost.toLocaleString('en')}</td><td class="num">{percent(s.reached ? s.lost / s.reached : 0)}</td></tr>
          <tr><th scope="row">that do not yet</th><td class="num">{s.others.toLocaleString('en')}</td><td class="num">{s.missed.toLocaleString('en')}</td><td class="num">{percent(s.others ? s.missed / s.others : 0)}</td></tr>
        </tbody>
      </table>
      <p class="quiet under">Lost is what was up when the step began and is not any more, restarted or has gone. {s.readers > 0 ? <><b>{s.acked.toLocaleString('en')} of {s.readers.toLocaleString('en')}</b> readers say that they took it.</> : 'No reader that it reached says what it takes; Eureka and Archaius clients never do.'} {g?.off ? 'Health does not stop it.' : `It is taken back when ${count(g?.instances ?? 1, 'instance')} more than the others' share is no longer up as it was, if that is ${g?.points ?? 1} % of those that see it.`}</p>
      {list(r.guards?.metrics).length > 0 && <ul class="lines">{r.guards!.metrics!.map(m => <li key={m.query}>It is taken back when <code>{m.query}</code>{m.relative && ', beside the others,'} {m.compare} {m.threshold}</li>)}</ul>}
      {flaws.length > 0 && <ul class="lines">{flaws.map(f => <li key={f.serverId + f.key}><Mark kind="danger" /><span><span class="name">{f.serverId}</span> cannot use <code>{f.key}</code>: {f.error}</span></li>)}</ul>}
    </section>
  )
}

function Changes({ r }: { r: Rollout }) {
  return (
    <section class="panel" aria-labelledby="edits-title">
      <div class="panel-head"><h2 id="edits-title">What it changes</h2></div>
      <table role="table" class="cards edits" data-testid="edits">
        <caption class="hidden">Properties before and after</caption>
        <thead><tr><th scope="col" class="c-key">Key</th><th scope="col" class="c-for">For</th><th scope="col" class="c-value">Before</th><th scope="col" class="c-value">After</th></tr></thead>
        <tbody role="rowgroup">{list(r.changes).map(c => (
          <tr role="row" key={c.record.propertyId}>
            <th role="rowheader" scope="row" class="name"><a href={propertyHref(c.record.key)}><Key of={c.record.key} /></a></th>
            <td role="cell" data-label="For"><For scope={c.record} /></td>
            <td role="cell" data-label="Before">{c.before ? <Value p={c.before} /> : <span class="quiet">not set</span>}</td>
            <td role="cell" data-label="After">{c.op === 'delete' ? <span class="quiet">deleted</span> : <Value p={c.record} />}</td>
          </tr>
        ))}</tbody>
      </table>
    </section>
  )
}

const deeds: Record<string, string> = {
  validate: 'was proposed', start: 'started', applied: 'its readers took it', baked: 'was watched long enough', passed: 'was judged well', doubt: 'the judge is not sure',
  stall: 'readers do not take it', fail: 'a guard struck', pause: 'was paused', resume: 'was resumed', advance: 'was advanced', approve: 'was approved', abort: 'was stopped',
  conflict: 'a record is not what it was', folded: 'is written', unfolded: 'is taken back',
}

function Story({ r, now }: { r: Rollout; now: number }) {
  const past = [...list(r.history)].reverse()
  if (past.length === 0) return null
  return (
    <section class="panel" aria-labelledby="story-title">
      <div class="panel-head"><h2 id="story-title">How it got there</h2><span class="quiet">the newest first</span></div>
      <ol class="lines feed story" data-testid="story">{past.map((h, i) => (
        <li key={i}><span class="when" title={exact(h.at)}><Ago at={when(h.at)} now={now} /></span><span>{deeds[h.event] ?? h.event}{h.step >= 0 && <span class="quiet">, step {h.step + 1}</span>} <span class="quiet">by {h.actor}</span>{h.why && <span class="why">{h.why}</span>}</span></li>
      ))}</ol>
    </section>
  )
}

/** Starts a roll-out of changes, and opens its page. */
export async function rollOut(why: string, title: string, changes: { op: 'set' | 'delete'; record: unknown }[], steps: Rollout['steps'] | undefined, confirm: string): Promise<string> {
  const r = await send<Rollout>('POST', `/config/v1/rollouts${confirm && `?confirm=${encodeURIComponent(confirm)}`}`, why, { title, changes, steps, start: true })
  location.hash = rolloutHref(r!.id)
  return 'The roll-out has started.'
}

/** How fast a roll-out goes: steps, undefined for the platform's own, which are like those given where some must be. */
export const paces: Record<string, { words: string; steps?: Rollout['steps']; like?: Rollout['steps'] }> = {
  default: { words: '5 to 15 min a step', like: ['instances:1', 'percent:5,zone:first', 'zone:first', 'region:first', 'all'].map((selector, i) => ({ selector, bake: ['5m', '10m', '10m', '15m', '10m'][i] })) },
  quick: { words: 'quickly, 20 s a step', steps: ['instances:1', 'percent:50', 'all'].map(selector => ({ selector, bake: '20s' })) },
  careful: { words: 'carefully, 1 h a step, then approval', steps: ['instances:1', 'percent:5,zone:first', 'zone:first', 'all'].map(selector => ({ selector, bake: '1h', approval: selector === 'all' ? 'manual' : undefined })) },
}
