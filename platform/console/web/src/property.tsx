// One property: its records and whom each is for, who gets which and why, and everything it ever was.

import { useState } from 'preact/hooks'
import type { Candidate, Change, Listing, Property, Scope } from './types'
import { type Model, list } from './model'
import { diff, Lines } from './changes'
import { Ago, type Ask, Empty, Stale, useCalm, useRead } from './ui'
import { For, ScopeInputs, scopeOf, scopeQuery, scopeWords } from './scope'
import { lastEdit, Value } from './config'
import { edit, putBack, remove } from './edit'
import { count, exact } from './format'

export function PropertyPage({ name, model, ask }: { name: string; model: Model; ask: (a: Ask) => void }) {
  const key = encodeURIComponent(name)
  const after = lastEdit(model)
  const records = useRead<Listing>(`/config/v1/properties?key=${key}`, 15_000, after)
  const past = useRead<{ history: Property[] }>(`/config/v1/history?key=${key}`, 30_000, after)
  const changes = useRead<{ changes?: Change[] }>(`/api/v1/changes?limit=200&resource=${encodeURIComponent('property:' + name)}`, 30_000, after)
  const found = records.data?.properties ?? []
  const versions = [...(past.data?.history ?? [])].sort((a, b) => (b.rev ?? 0) - (a.rev ?? 0))
  const doing = (a: Ask) => ask({ ...a, do: why => a.do(why).finally(() => { records.again(); past.again() }) })
  const described = found.find(p => p.description)
  return (
    <>
      <div class="bar">
        <p class="quiet">{described?.description || (records.data ? `${count(found.length, 'record')}${found.length > 1 ? '; of those that fit a process the most specific wins' : ''}` : 'Reading…')}</p>
        <div class="tools">{found.length > 0
          ? <button type="button" onClick={() => doing(edit({ model, p: found[0], copy: true }))} data-testid="add-scope">Add a value</button>
          : records.data && versions.length > 0 && <button type="button" class="primary" onClick={() => doing(edit({ model, p: { ...versions[0], value: '', rev: 0 }, copy: true }))}>Set it again</button>}</div>
      </div>
      <Stale seconds={records.stale} />
      <section class="panel" aria-labelledby="records-title">
        <div class="panel-head"><h2 id="records-title">Values</h2></div>
        {records.error && <p class="problem" role="alert">{records.error}</p>}
        {records.data && found.length === 0 && <Empty title={versions.length ? 'It is deleted.' : `Nobody has set ${name}.`}>{versions.length ? 'What it was is below.' : <a href="#/config">All properties</a>}</Empty>}
        {found.length > 0 && (
          <table role="table" class="cards records" data-testid="records">
            <caption class="hidden">Values by scope, from general to specific</caption>
            <thead><tr><th scope="col" class="c-for">For</th><th scope="col" class="c-value">Value</th><th scope="col" class="c-type">Type</th><th scope="col" class="c-when">Changed</th><th scope="col" class="c-by">By</th><th scope="col" class="c-act"><span class="hidden">Actions</span></th></tr></thead>
            <tbody role="rowgroup">
              {found.map(p => (
                <tr role="row" key={p.propertyId} data-testid={`record-${scopeWords(p)}`}>
                  <th role="rowheader" scope="row"><For scope={p} /></th>
                  <td role="cell" data-label="Value" class="whole"><Whole p={p} /></td>
                  <td role="cell" data-label="Type" class="quiet">{p.type || 'string'}<Bounds p={p} /></td>
                  <td role="cell" data-label="Changed"><Ago at={p.ts} now={model.now} /></td>
                  <td role="cell" data-label="By" class="ellipsis">{p.updatedBy || '–'}</td>
                  <td role="cell" class="c-act two"><button type="button" class="small" aria-label={`Change the value for ${scopeWords(p)}`} onClick={() => doing(edit({ model, p }))} data-testid={`change-${scopeWords(p)}`}>Change</button><button type="button" class="small" aria-label={`Delete the value for ${scopeWords(p)}`} onClick={() => doing(remove(p))} data-testid={`delete-${scopeWords(p)}`}>Delete</button></td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </section>
      {found.length > 0 && <WhoGetsWhat name={name} model={model} after={after} />}
      {versions.length > 0 && <History versions={versions} now={model.now} changes={list(changes.data?.changes)} current={new Map(found.map(p => [p.propertyId, p]))} ask={doing} />}
    </>
  )
}

function Bounds({ p }: { p: Property }) {
  const c = p.constraint
  if (!c) return null
  const unit = p.type === 'duration' ? ' ms' : ''
  const said = [c.min !== undefined && `at least ${c.min}${unit}`, c.max !== undefined && `at most ${c.max}${unit}`, c.pattern && `like ${c.pattern}`].filter(Boolean)
  return said.length ? <>, {said.join(', ')}</> : null
}

// A value as it is: JSON indented, long text with its lines.
function Whole({ p }: { p: Property }) {
  if (p.sensitive || p.value === '' || p.deleted) return <Value p={p} />
  const text = pretty(p)
  return text.includes('\n') || text.length > 120 ? <pre class="value-text" tabIndex={0} aria-label="Value">{text}</pre> : <code class="value">{text}</code>
}

function pretty(p: Property): string {
  if (p.type !== 'json') return p.value
  try {
    return JSON.stringify(JSON.parse(p.value), null, 2)
  } catch {
    return p.value
  }
}

function WhoGetsWhat({ name, model, after }: { name: string; model: Model; after: number }) {
  const [caller, setCaller] = useState<Scope>({})
  const asked = useCalm(caller, 250)
  const { data, error } = useRead<{ properties: Record<string, string>; explain?: Record<string, Candidate[]> }>(
    `/config/v1/resolve?explain=true&prefix=${encodeURIComponent(name)}${scopeQuery(asked)}`, 15_000, after)
  const candidates = list(data?.explain?.[name])
  const won = candidates.find(c => c.wins)
  // Naming an instance tells everything else about it.
  const choose = (s: Scope) => {
    const i = s.serverId && s.serverId !== caller.serverId ? model.services.flatMap(x => x.instances).find(i => i.id === s.serverId) : undefined
    setCaller(i ? { ...s, appId: i.app, region: i.region || undefined, zone: i.zone || undefined, asg: i.group || undefined } : s)
  }
  return (
    <section class="panel" aria-labelledby="who-title" data-testid="explain">
      <div class="panel-head"><h2 id="who-title">Who gets what</h2></div>
      <p class="quiet lead">Say who asks, and see which value it gets and why. An instance tells the rest.</p>
      <ScopeInputs id="who" scope={caller} model={model} change={choose} />
      {error && <p class="problem" role="alert">{error}</p>}
      {data && (
        <>
          <p class="verdict" role="status" data-testid="verdict">{won ? <>It gets <Value p={won} /> <span class="quiet">from the value for {scopeWords(won)}.</span></> : <>It gets none of them, and uses the default in its code.</>}</p>
          <table role="table" class="cards candidates">
            <caption class="hidden">Values in the order in which they are looked at</caption>
            <thead><tr><th scope="col" class="c-for">For</th><th scope="col" class="c-value">Value</th><th scope="col" class="c-why">Why or why not</th></tr></thead>
            <tbody role="rowgroup">{candidates.map(c => (
              <tr role="row" key={c.propertyId} class={c.wins ? 'wins' : 'loses'}>
                <th role="rowheader" scope="row"><For scope={c} /></th>
                <td role="cell" data-label="Value"><Value p={c} /></td>
                <td role="cell" data-label="Why or why not">{c.wins && <b>wins: </b>}{c.reason}</td>
              </tr>
            ))}</tbody>
          </table>
        </>
      )}
    </section>
  )
}

function History({ versions, now, changes, current, ask }: { versions: Property[]; now: number; changes: Change[]; current: Map<string, Property>; ask: (a: Ask) => void }) {
  const [picked, pick] = useState<{ from?: number; to?: number }>({})
  const before = (v: Property) => versions.find(o => o.propertyId === v.propertyId && (o.rev ?? 0) < (v.rev ?? 0))
  const to = versions.find(v => v.rev === picked.to) ?? versions.find(before) ?? versions[0]
  const from = versions.find(v => v.rev === picked.from) ?? before(to) ?? versions[versions.length - 1]
  const scopes = new Set(versions.map(v => v.propertyId)).size
  // A change names the moment of the version it made.
  const reasons = new Map(changes.map(c => {
    const at = (c.after ?? {}) as Property
    return [`${at.propertyId} ${at.ts}`, c] as const
  }))
  const deletions = changes.filter(c => c.action === 'property.delete')
  const reason = (v: Property) => (v.deleted ? deletions.find(c => (c.before as Property | undefined)?.propertyId === v.propertyId && Math.abs(Date.parse(c.time) - (v.ts ?? 0)) < 2_000) : reasons.get(`${v.propertyId} ${v.ts}`))?.why
  return (
    <section class="panel" aria-labelledby="history-title">
      <div class="panel-head"><h2 id="history-title">History</h2><span class="quiet">the newest first, {count(versions.length, 'version')}</span></div>
      <table role="table" class="cards history" data-testid="history">
        <caption class="hidden">Versions, the newest first</caption>
        <thead><tr><th scope="col" class="c-pick">From</th><th scope="col" class="c-pick">To</th><th scope="col" class="c-when">When</th><th scope="col" class="c-by">Who</th><th scope="col" class="c-value">Value</th><th scope="col" class="c-for">For</th><th scope="col" class="c-why">Why</th><th scope="col" class="c-act"><span class="hidden">Action</span></th></tr></thead>
        <tbody role="rowgroup">
          {versions.map(v => {
            const is = current.get(v.propertyId)
            return (
              <tr role="row" key={v.rev} data-testid={`version-${v.rev}`}>
                <td role="cell" class="c-pick"><label><input type="radio" name="from" checked={v === from} onChange={() => pick({ from: v.rev, to: to.rev })} /><span class="hidden">Compare from revision {v.rev}</span><span class="narrow" aria-hidden="true">from</span></label></td>
                <td role="cell" class="c-pick"><label><input type="radio" name="to" checked={v === to} onChange={() => pick({ from: from.rev, to: v.rev })} /><span class="hidden">Compare to revision {v.rev}</span><span class="narrow" aria-hidden="true">to</span></label></td>
                <td role="cell" data-label="When"><span title={`${exact(v.ts ?? 0)}, revision ${v.rev}`}><Ago at={v.ts} now={now} /></span></td>
                <td role="cell" data-label="Who" class="ellipsis">{v.updatedBy || '–'}</td>
                <td role="cell" data-label="Value"><Value p={v} /></td>
                <td role="cell" data-label="For">{scopes > 1 ? <For scope={v} /> : <span class="quiet">{scopeWords(v)}</span>}</td>
                <td role="cell" data-label="Why" class="quiet">{reason(v) || '–'}</td>
                <td role="cell" class="c-act">{v.rev === is?.rev
                  ? <span class="chip">now</span>
                  : !v.deleted && !v.sensitive && <button type="button" class="small" aria-label={`Put revision ${v.rev} back`} onClick={() => ask(putBack(v, is))} data-testid={`put-back-${v.rev}`}>Put back</button>}
                </td>
              </tr>
            )
          })}
        </tbody>
      </table>
      {versions.length > 1 && from !== to && (
        <div data-testid="diff">
          <h3>From revision {from.rev} to {to.rev}</h3>
          <Lines rows={diff(linesOf(from), linesOf(to))} />
        </div>
      )}
    </section>
  )
}

// A version as lines to compare.
function linesOf(p: Property): string[] {
  if (p.deleted) return [`for ${scopeWords(p)}`, 'deleted']
  const c = p.constraint
  return [
    `for ${scopeWords(scopeOf(p))}`, `type ${p.type || 'string'}`, ...(c ? [`must be ${JSON.stringify(c)}`] : []), ...(p.description ? [`description ${p.description}`] : []),
    ...(p.sensitive ? ['value is not shown: it is sensitive'] : pretty(p).split('\n').map((l, i) => (i === 0 ? `value ${l}` : l))),
  ]
}
