// The registry as those who know Eureka expect to see it: who is registered where, what operators decided, and how long
// each may be silent.

import { useState } from 'preact/hooks'
import type { Lease, Leases, Peer, RegistryNode, Silence } from './types'
import { type Model, stateOf, zoneLetter } from './model'
import { act, sentence } from './api'
import { Age, type Ask, Empty, Mark, Status, useCalm, useRead } from './ui'
import { count, exact, span, when, words } from './format'

const shownLeases = 500

export function RegistryPage({ model, node, ask }: { model: Model; node: RegistryNode | undefined; ask: (a: Ask) => void }) {
  const [search, setSearch] = useState('')
  const q = useCalm(search.trim(), 200)
  const { data, error, again } = useRead<Leases>(`/api/v1/registry/leases?limit=${shownLeases}&q=${encodeURIComponent(q)}`, 2_000)
  const byApp = new Map<string, Lease[]>()
  for (const l of data?.leases ?? []) byApp.set(l.app, [...(byApp.get(l.app) ?? []), l])
  const f = q.toLowerCase()
  const apps = model.services.filter(s => byApp.has(s.name) || !f || s.name.includes(f)).map(s => ({ ...s, leases: byApp.get(s.name) ?? [] })).filter(s => s.total > 0)
  const doing = (a: Ask) => ask({ ...a, do: why => a.do(why).finally(again) })
  return (
    <>
      <div class="bar">
        <p class="quiet" data-testid="registry-counts">{node ? <>{count(node.apps, 'app')}, {count(node.instances, 'instance')}: {Object.entries(node.statuses).sort().reverse().map(([s, n]) => `${n.toLocaleString('en')} ${words(s)}`).join(', ') || 'nobody yet'}</> : 'Who is registered where'}</p>
        <label class="search"><span class="hidden">Search by app, instance, zone or status</span><input type="search" placeholder="Search instances" value={search} onInput={e => setSearch(e.currentTarget.value)} data-testid="filter" /></label>
      </div>
      {node && <Node node={node} now={model.now} />}
      {node?.peers && <Peers peers={node.peers} />}
      <section class="panel" aria-labelledby="leases-title">
        <div class="panel-head"><h2 id="leases-title">Apps and their instances</h2>{data && data.more > 0 && <span class="quiet">{count(data.more, 'instance')} more; a search narrows the list</span>}</div>
        {error && <p class="problem" role="alert">{error}</p>}
        {!data && !error && <p class="calm">Reading the leases…</p>}
        {data && apps.length === 0 && (f
          ? <Empty title={`Nothing matches “${q}”.`} />
          : <Empty title="Nobody is registered.">A program with a Eureka client registers itself when its service URL names this platform: its port 8761, path <code>/eureka/</code>. Any other is registered by <code>roadbed run --name hello --port 8081 -- python3 -m http.server --bind 127.0.0.1 {'{port}'}</code>.</Empty>)}
        {data && apps.length > 0 && (
          <table role="table" class="cards leases" data-testid="leases">
            <caption class="hidden">Registered instances by app</caption>
            <thead>
              <tr><th scope="col" class="c-id">Instance</th><th scope="col" class="c-zone">Zone</th><th scope="col" class="c-status">Status</th><th scope="col" class="c-override">Override</th><th scope="col" class="num c-heard">Heard, s ago</th><th scope="col" class="num c-lease">Lease, s</th><th scope="col" class="num c-age">Up for</th><th scope="col" class="c-addr">Address</th><th scope="col" class="c-act"><span class="hidden">Action</span></th></tr>
            </thead>
            {apps.map(s => (
              <tbody role="rowgroup" key={s.name} data-testid={`app-${s.name}`}>
                <tr role="row" class="app-row">
                  <th role="rowheader" scope="rowgroup" colSpan={9}><div><span class="app-name"><Mark kind={s.up === 0 ? 'danger' : s.up < s.total ? 'warning' : 'normal'} /><a href={`#/services/${encodeURIComponent(s.name)}`}>{s.name}</a> <span class="quiet">{s.up} of {s.total} up</span></span><ZoneCounts zones={s.counts} /></div></th>
                </tr>
                {s.leases.map(l => <Row key={l.id} l={l} now={model.now} ask={doing} />)}
                {s.leases.length === 0 && <tr role="row"><td role="cell" colSpan={9} class="quiet">Its instances are beyond the first {shownLeases.toLocaleString('en')}. <button type="button" class="small" onClick={() => setSearch(s.name)}>Show them</button></td></tr>}
              </tbody>
            ))}
          </table>
        )}
      </section>
    </>
  )
}

const modes: Record<Silence['mode'], string> = {
  normal: 'not needed', asking: 'asking the peers', thinning: 'evicting slowly', preserving: 'nobody is evicted', off: 'switched off',
}

function Node({ node, now }: { node: RegistryNode; now: number }) {
  const p = node.preservation
  const calm = !p || p.mode === 'normal' || p.mode === 'off'
  return (
    <section class="panel" aria-labelledby="node-title" data-testid="registry-node">
      <div class="panel-head"><h2 id="node-title">This registry</h2></div>
      <dl class="facts">
        <div><dt>Node</dt><dd class="name">{node.self || '–'}</dd></div>
        <div><dt>Region and zone</dt><dd>{[node.location?.region, node.location?.zone].filter(Boolean).join(', ') || '–'}</dd></div>
        <div><dt>Runs for</dt><dd><Age since={when(node.since)} now={now} /></dd></div>
        {p && <>
          <div><dt>Self-preservation</dt><dd class={calm ? '' : 'warn'} data-testid="preservation">{modes[p.mode] ?? p.mode}</dd></div>
          <div title={`Renewals of the last minute, of those that the instances promised${p.threshold ? `; Eureka's threshold is ${p.threshold}` : ''}.`}><dt>Renewals, per min</dt><dd>{Math.round(p.observed).toLocaleString('en')} of {Math.round(p.expected).toLocaleString('en')}{p.threshold ? <small> threshold {p.threshold.toLocaleString('en')}</small> : null}</dd></div>
          <div title="Of how many renewals are missing, and of those the ones whose leases ran out"><dt>Late, silent</dt><dd class={p.late ? 'warn' : ''}>{p.late.toLocaleString('en')}, {p.silent.toLocaleString('en')}</dd></div>
        </>}
        <div><dt>Overrides in force</dt><dd>{node.overrides.toLocaleString('en')}</dd></div>
      </dl>
      {p && !calm && <p class="notice" role="status"><Mark kind="warning" size={12} /><span><b>{sentence(p.reason)}</b> <span class="quiet">For {span(now - (when(p.since) ?? now))}.{p.degraded && ' This registry may be cut off from clients that its peers hear.'}</span></span></p>}
      {node.warming && <p class="calm"><Mark kind="warning" /> It has just started: until everybody had time to come back, nobody takes silence for absence.</p>}
    </section>
  )
}

function Peers({ peers }: { peers: Peer[] }) {
  return (
    <section class="panel" aria-labelledby="peers-title" data-testid="peers">
      <div class="panel-head"><h2 id="peers-title">Peers</h2>{peers.length === 0 && <span class="quiet">none</span>}</div>
      {peers.length === 0
        ? <p class="quiet">This registry stands alone. It takes part in a cluster of Eureka servers, or of its like, with <code>roadbed up --eureka-peers URL,URL --eureka-url OWN-URL</code>.</p>
        : (
          <table role="table" class="cards peers">
            <caption class="hidden">Registries that are told what clients tell this one</caption>
            <thead><tr><th scope="col" class="c-url">Peer</th><th scope="col" class="c-reach">Reached</th><th scope="col" class="num c-wait">Instances it lacks news of</th><th scope="col" class="num c-lag">Lag, s</th></tr></thead>
            <tbody role="rowgroup">{peers.map(p => {
              const kind = p.reachable ? (p.lag > 10 ? 'warning' : 'normal') : p.tried ? 'danger' : 'warning'
              return (
                <tr role="row" key={p.url} data-testid={`peer-${p.url}`}>
                  <th role="rowheader" scope="row" class="name">{p.url}</th>
                  <td role="cell" data-label="Reached"><span class={`standing ${kind}`}><Mark kind={kind} />{p.reachable ? 'yes' : p.tried ? 'no; trying again' : 'not tried yet'}</span></td>
                  <td role="cell" data-label="Instances it lacks news of" class="num">{p.waiting.toLocaleString('en')}</td>
                  <td role="cell" data-label="Lag, s" class="num">{p.lag < 10 ? p.lag.toFixed(p.lag ? 1 : 0) : Math.round(p.lag).toLocaleString('en')}</td>
                </tr>
              )
            })}</tbody>
          </table>
        )}
    </section>
  )
}

function ZoneCounts({ zones }: { zones: [string, { up: number; total: number }][] }) {
  return <ul class="zone-counts" aria-label="Up by zone">{zones.map(([z, n]) => <li key={z}><span class="quiet">{z || 'no zone'}</span> <b class={n.up < n.total ? 'warn' : ''}>{n.up}/{n.total}</b></li>)}</ul>
}

function Row({ l, now, ask }: { l: Lease; now: number; ask: (a: Ask) => void }) {
  const [state, status] = stateOf(l.status)
  const heard = when(l.renewed)
  const silent = heard === undefined ? undefined : Math.max(0, Math.round((now - heard) / 1000))
  const at = `/api/v1/registry/instances/${encodeURIComponent(l.app)}/${encodeURIComponent(l.id)}/status`
  return (
    <tr role="row" data-testid={`lease-${l.id}`}>
      <th role="rowheader" scope="row" class="name">{l.id}</th>
      <td role="cell" data-label="Zone"><span class="zone-letter" aria-hidden="true">{zoneLetter(l.location?.zone ?? '')}</span>{l.location?.zone || '–'}</td>
      <td role="cell" data-label="Status"><Status of={{ state, status }} /></td>
      <td role="cell" data-label="Override">{l.override ? <span class="override" title={`The instance says ${words(l.says)}; an operator decided ${words(l.override)}.`}>{l.override === l.status ? 'set' : words(l.override)}, says {words(l.says)}</span> : <span class="quiet">–</span>}</td>
      <td role="cell" data-label="Heard, s ago" class="num"><Silence seconds={silent} lease={l.duration} at={heard} /></td>
      <td role="cell" data-label="Lease, s" class="num" title={`It promises to renew every ${l.interval} s.`}>{l.duration}</td>
      <td role="cell" data-label="Up for" class="num" title={`Registered ${exact(l.registered)}`}><Age since={when(l.up)} now={now} /></td>
      <td role="cell" data-label="Address" class="name">{l.address}</td>
      <td role="cell" class="c-act">{l.override
        ? <button type="button" class="small" aria-label={`Put ${l.id} back`} data-testid={`put-back-${l.id}`} onClick={() => ask({
            title: `Put ${l.id} back?`, text: <p>The override ends. What the instance says of itself counts again: {words(l.says)}.</p>, verb: 'Put back', done: `${l.id} speaks for itself again.`,
            do: why => act('DELETE', at, why),
          })}>Put back</button>
        : state !== 'disabled' && <button type="button" class="small" aria-label={`Take ${l.id} out of traffic`} data-testid={`take-out-${l.id}`} onClick={() => ask({
            title: `Take ${l.id} out of traffic?`, text: <p>It keeps running, and nobody sends it requests until it is put back. A restart of the platform does not change that.</p>, verb: 'Take out', dangerous: true, done: `${l.id} takes no traffic.`,
            do: why => act('PUT', at, why, { status: 'OUT_OF_SERVICE' }),
          })}>Take out</button>}
      </td>
    </tr>
  )
}

// How long an instance has been silent, as a number and as the part of its lease that has passed.
function Silence({ seconds, lease, at }: { seconds: number | undefined; lease: number; at: number | undefined }) {
  if (seconds === undefined) return <>–</>
  const share = Math.min(1, lease ? seconds / lease : 0)
  return (
    <span class={`silence ${share >= 1 ? 'danger' : share > 0.67 ? 'warning' : ''}`} title={`last heard ${exact(at!)}`}>
      {seconds.toLocaleString('en')}
      <svg width="36" height="5" viewBox="0 0 36 5" aria-hidden="true"><rect width="36" height="5" rx="2.5" class="ground" /><rect width={(36 * share).toFixed(1)} height="5" rx="2.5" class="part" /></svg>
    </span>
  )
}
