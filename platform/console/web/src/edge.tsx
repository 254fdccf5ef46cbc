// The edge: which requests go where, whom it asks and how they do, who asks most, what was slow, and what it refuses.

import { useEffect, useState } from 'preact/hooks'
import type { EdgeFilter, EdgeProgram, EdgeRequest, EdgeRoute, EdgeRoutes, Origin, Regions as AllRegions, Shedding, Talker } from './types'
import type { Model } from './model'
import { type Ask, Empty, Mark, useRead } from './ui'
import { count, percent, rate, seconds, words } from './format'
import { Explain } from './explain'
import { Origins } from './origins'
import { SlowRequests } from './passport'
import { Regions } from './regions'

const every = 2_000
const at = '/api/v1/edge/'

export function EdgePage({ model, ask }: { model: Model; ask: (a: Ask) => void }) {
  const routes = useRead<EdgeRoutes>(at + 'routes', 5_000)
  const origins = useRead<Origin[]>(at + 'origins', every)
  const top = useRead<{ clients: Talker[] | null; paths: Talker[] | null }>(at + 'top?limit=8', every)
  const slow = useRead<EdgeRequest[]>(at + 'passport?limit=50', every)
  const filters = useRead<EdgeFilter[]>(at + 'filters', 5_000)
  const shed = useSome<Shedding>(at + 'shed')
  const programs = useSome<EdgeProgram[]>(at + 'programs')
  const regions = useSome<AllRegions>(at + 'regions')
  if (!routes.data && routes.error) return <div class="panel"><Empty title={routes.error}>An edge runs with <code>roadbed up</code>, or in a process of its own with <code>roadbed serve --roles edge</code>.</Empty></div>
  const error = [routes, origins, top, slow, filters].find(r => r.error)?.error
  const r = routes.data
  const apps = r?.apps ?? []
  return (
    <>
      <div class="bar">
        <p class="quiet">The front door. {r ? <>{count(r.routes?.length ?? 0, 'route')}, and {count(apps.length, 'app')} reachable under {apps.length === 1 ? 'its' : 'their'} own name.</> : 'Reading its routes…'}</p>
        <p class="numbers"><span><b>{rate(model.entry.rps)}</b> requests/s</span><span><b>{percent(model.entry.danger)}</b> failed</span><span><b>{seconds(model.entry.p99)}</b> p99</span></p>
      </div>
      {error && <p class="problem" role="alert">{error} What is shown may be old.</p>}
      {r?.refused && <p class="notice danger" data-testid="edge-refused"><Mark kind="danger" size={12} /><span><b role="alert">The newest routes are not in force.</b> <span>{r.refused} The ones before stay. Mend them with <code>roadbed edge route apply</code>.</span></span></p>}
      {regions && regions.regions.length > 1 && <Regions all={regions} now={model.now} ask={ask} />}
      <Explain example={exampleOf(r)} />
      {origins.data && <Origins origins={origins.data} now={model.now} />}
      {r && <Routes routes={r.routes ?? []} apps={apps} />}
      {top.data && <div class="halves"><Talkers title="Top clients" name="Address" of={top.data.clients ?? []} id="clients" /><Talkers title="Top paths" name="Path" of={top.data.paths ?? []} id="paths" /></div>}
      {slow.data && <SlowRequests lines={slow.data} now={model.now} />}
      {shed && <Shed s={shed} />}
      {programs && <Programs of={programs} />}
      {filters.data && <Filters of={filters.data} />}
    </>
  )
}

// What is at a path, if an edge of this version tells it; one that does not is seldom asked again.
function useSome<T>(path: string): T | undefined {
  const [told, tell] = useState(false)
  const { data } = useRead<T>(path, told ? every : 60_000)
  useEffect(() => tell(data !== undefined), [data !== undefined])
  return data
}

// A URL that some route takes, to show what one looks like.
function exampleOf(r: EdgeRoutes | undefined): string {
  const m = r?.routes?.find(r => !r.disabled && (r.match?.path?.prefix ?? '/') !== '/')?.match
  const app = r?.apps?.includes('api') ? 'api' : r?.apps?.[0]
  const host = m?.hosts?.[0]?.replace('*', 'www')
  return `${host ? `${location.protocol}//${host}` : ''}${m?.path?.prefix ?? `/${app ?? 'hello'}/`}`
}

function pathOf(r: EdgeRoute): string {
  const p = r.match?.path
  return p?.exact ?? p?.regex ?? `${(p?.prefix ?? '').replace(/\/$/, '')}/…`
}

function conditionsOf(r: EdgeRoute): string {
  const m = r.match ?? {}
  const n = (list: unknown[] | undefined, one: string, many: string) => (list?.length ? [count(list.length, one, many)] : [])
  return [...n(m.headers, 'header', 'headers'), ...n(m.query, 'query value', 'query values'), ...n(m.cookies, 'cookie', 'cookies'), ...(m.scheme ? [m.scheme] : []), ...(m.when ? ['when'] : [])].join(', ')
}

function Routes({ routes, apps }: { routes: EdgeRoute[]; apps: string[] }) {
  const shown = routes.slice(0, 200)
  return (
    <section class="panel" aria-labelledby="routes-title" data-testid="edge-routes">
      <div class="panel-head"><h2 id="routes-title">Routes</h2>{routes.length > shown.length && <span class="quiet">the first {shown.length} of {routes.length.toLocaleString('en')}; <code>roadbed edge route list</code> has them all</span>}</div>
      {routes.length === 0 && <Empty title="There are no routes of your own.">Write some and apply them with <code>roadbed edge route apply routes.yaml --why "..."</code>, or import those of nginx, Zuul or the Gateway API with <code>roadbed edge import</code>.</Empty>}
      {shown.length > 0 && (
        <table role="table" class="cards routes">
          <caption class="hidden">Routes, the most specific first</caption>
          <thead><tr><th scope="col">Route</th><th scope="col">Host</th><th scope="col">Path</th><th scope="col">Method</th><th scope="col">Conditions</th><th scope="col">Filters</th><th scope="col">To</th><th scope="col" class="num">Within</th></tr></thead>
          <tbody role="rowgroup">{shown.map(r => (
            <tr role="row" key={r.id} data-testid={`route-${r.id}`}>
              <th role="rowheader" scope="row">{r.id}{r.disabled && <span class="chip off">disabled</span>}</th>
              <td role="cell" data-label="Host">{r.match?.hosts?.join(', ') ?? <span class="quiet">any</span>}</td>
              <td role="cell" data-label="Path" class="name">{pathOf(r)}</td>
              <td role="cell" data-label="Method">{r.match?.methods?.join(', ') ?? <span class="quiet">any</span>}</td>
              <td role="cell" data-label="Conditions">{conditionsOf(r) || <span class="quiet">none</span>}</td>
              <td role="cell" data-label="Filters">{r.filters?.flatMap(f => Object.keys(f)).map(words).join(', ') || <span class="quiet">none</span>}</td>
              <td role="cell" data-label="To"><Backends r={r} known={apps} /></td>
              <td role="cell" data-label="Within" class="num">{r.timeouts?.request ?? <span class="quiet">usual</span>}</td>
            </tr>
          ))}</tbody>
        </table>
      )}
      {apps.length > 0 && <p class="under quiet">Under their own names: {apps.slice(0, 40).map((a, i) => <>{i > 0 && ', '}<a key={a} href={`#/services/${encodeURIComponent(a)}`} class="name">/{a}/</a></>)}{apps.length > 40 && ` and ${apps.length - 40} more`}</p>}
    </section>
  )
}

function Backends({ r, known }: { r: EdgeRoute; known: string[] }) {
  const all = r.backends ?? []
  if (all.length === 0) return <span class="quiet">answers by itself</span>
  const sum = all.reduce((n, b) => n + (b.weight ?? 0), 0)
  return <>{all.map((b, i) => {
    const name = b.status ? `status ${b.status}` : (b.vip ?? b.addr ?? '')
    const share = sum ? (b.weight ?? 0) / sum : 1 / all.length
    return <span key={i}>{i > 0 && ', '}{known.includes(name) ? <a href={`#/services/${encodeURIComponent(name)}`}>{name}</a> : name}{all.length > 1 && <span class="quiet"> {percent(share)}</span>}</span>
  })}{r.mirror && <span class="quiet">, copies to {r.mirror.vip}</span>}</>
}

function Talkers({ title, name, of, id }: { title: string; name: string; of: Talker[]; id: string }) {
  const most = of[0]?.requests ?? 1
  return (
    <section class="panel" aria-labelledby={`${id}-title`} data-testid={`edge-${id}`}>
      <div class="panel-head"><h2 id={`${id}-title`}>{title}</h2><span class="quiet">in the last minute</span></div>
      {of.length === 0 ? <Empty title="Nobody asked lately." /> : (
        <table class="talkers">
          <caption class="hidden">{title}</caption>
          <thead><tr><th scope="col">{name}</th><th scope="col" class="num">Requests/s</th><th scope="col" class="num">KiB/s</th><th scope="col" class="num">Failed</th></tr></thead>
          <tbody>{of.map(t => (
            <tr key={t.name}>
              <th scope="row" class="name" title={t.name}>{t.name || '–'}<svg class="talk" viewBox="0 0 100 3" preserveAspectRatio="none" aria-hidden="true"><rect width={(100 * t.requests) / most} height="3" /></svg></th>
              <td class="num">{rate(t.requests)}</td><td class="num">{rate(t.bytes / 1024)}</td><td class="num"><span class={t.failed > 0 ? 'bad' : ''}>{percent(t.failed)}</span></td>
            </tr>
          ))}</tbody>
        </table>
      )}
    </section>
  )
}

const groups = ['CRITICAL', 'DEGRADED', 'BEST_EFFORT', 'BULK']

function Shed({ s }: { s: Shedding }) {
  const last = Math.min(s.threshold, s.forced)
  const value = (g: Shedding['signals'][number], v: number) => (g.name === 'delay' ? seconds(v) : percent(v))
  const troubled = s.apps.filter(a => a.refused > 0 || a.slow || a.threshold < 100)
  return (
    <section class="panel" aria-labelledby="shed-title" data-testid="edge-shed">
      <div class="panel-head"><h2 id="shed-title">Shed by class</h2><span class="quiet">requests refused since the edge began</span></div>
      <dl class="facts">{groups.map(g => <div key={g}><dt>{words(g)}</dt><dd class={s.shed[g] ? 'warn' : ''} data-testid={`shed-${g}`}>{(s.shed[g] ?? 0).toLocaleString('en')}</dd></div>)}
        <div title="Scores go from 1, the most important, to 100"><dt>Let in now</dt><dd class={last < 100 ? 'warn' : ''}>{last >= 100 ? 'everything' : <>scores to {last}{s.forced < s.threshold && <small> a drill</small>}</>}</dd></div>
        <div><dt>Overload</dt><dd class={s.x > 0 ? 'warn' : ''}>{percent(s.x)}</dd></div>
      </dl>
      {s.signals.length > 0 && (
        <table class="signals">
          <caption class="hidden">What overload is measured by</caption>
          <thead><tr><th scope="col">Signal</th><th scope="col" class="num">Now</th><th scope="col" class="num">Overload from</th><th scope="col" class="num">Full at</th></tr></thead>
          <tbody>{s.signals.map(g => <tr key={g.name}><th scope="row">{g.x > 0 && <Mark kind="warning" />} {words(g.name)}</th><td class="num">{value(g, g.value)}</td><td class="num quiet">{value(g, g.soft)}</td><td class="num quiet">{value(g, g.hard)}</td></tr>)}</tbody>
        </table>
      )}
      {troubled.length > 0 && <ul class="lines under">{troubled.map(a => <li key={a.app}><Mark kind={a.slow || a.threshold < 100 ? 'warning' : 'normal'} /><span><a href={`#/services/${encodeURIComponent(a.app)}`}>{a.app}</a>: {count(a.refused, 'request')} kept from it, {a.inFlight} in flight{a.slow && ` of ${a.limit} while it is slow`}{a.threshold < 100 && `; it gets scores to ${a.threshold}`}</span></li>)}</ul>}
    </section>
  )
}

function Programs({ of }: { of: EdgeProgram[] }) {
  return (
    <section class="panel" aria-labelledby="programs-title" data-testid="edge-programs">
      <div class="panel-head"><h2 id="programs-title">Programs</h2><span class="quiet">filters of your own</span></div>
      {of.length === 0 ? <Empty title="There are no programs.">A filter in CEL, Starlark or WASM is a property <code>edge.program.NAME</code>; it is checked, tried on a share of the requests, and taken back if it fails.</Empty> : (
        <table role="table" class="cards">
          <caption class="hidden">Programs at this edge</caption>
          <thead><tr><th scope="col">Program</th><th scope="col">Phase</th><th scope="col" class="num">Order</th><th scope="col">For</th><th scope="col">Versions</th></tr></thead>
          <tbody role="rowgroup">{of.map(p => (
            <tr role="row" key={p.name}>
              <th role="rowheader" scope="row"><Mark kind={p.refused ? 'danger' : 'normal'} /> {p.name}</th>
              <td role="cell" data-label="Phase">{p.phase || '–'}</td><td role="cell" data-label="Order" class="num">{p.order}</td><td role="cell" data-label="For">{p.global ? 'every request' : 'routes that name it'}</td>
              <td role="cell" data-label="Versions">{(p.versions ?? []).map(v => <span class="scope" key={v.version} title={v.lastError}><b class="name">{v.version}</b> {v.kind}, {words(v.state)}{v.state === 'CANARY' && ` for ${percent(v.percent / 100)}`}, {count(v.runs, 'run')}{v.failures > 0 && <span class="bad">, {v.failures.toLocaleString('en')} failed</span>}</span>)}{p.refused && <span class="bad">{p.refused}</span>}</td>
            </tr>
          ))}</tbody>
        </table>
      )}
    </section>
  )
}

const kinds = { INBOUND: 'in', ENDPOINT: 'endpoint', OUTBOUND: 'out' }

function Filters({ of }: { of: EdgeFilter[] }) {
  return (
    <section class="panel" aria-labelledby="filters-title" data-testid="edge-filters">
      <div class="panel-head"><h2 id="filters-title">Filters</h2><span class="quiet">in the order they run; runs are counted at one request in 64, failures all</span></div>
      <div class="scroll"><table class="filters">
        <caption class="hidden">Filters of the edge</caption>
        <thead><tr><th scope="col">Filter</th><th scope="col">Kind</th><th scope="col" class="num">Order</th><th scope="col" class="num">Mean, µs</th><th scope="col" class="num">Runs</th><th scope="col" class="num">Skipped</th><th scope="col" class="num">Failed</th><th scope="col" class="num">In it now</th><th scope="col" class="c-then">If it fails</th></tr></thead>
        <tbody>{of.map(f => (
          <tr key={f.kind + f.name} class={f.disabled ? 'loses' : ''}>
            <th scope="row" class="name">{f.name}{f.disabled && <span class="chip off">switched off</span>}</th>
            <td>{kinds[f.kind]}</td>
            <td class="num">{f.kind === 'ENDPOINT' ? '–' : f.order}</td>
            <td class="num">{f.mean ? (f.mean / 1e3).toLocaleString('en', { maximumFractionDigits: 1, minimumFractionDigits: 1 }) : '–'}</td>
            <td class="num">{f.runs.toLocaleString('en')}</td>
            <td class="num">{f.skipped.toLocaleString('en')}</td>
            <td class="num"><span class={f.failed ? 'bad' : ''}>{f.failed.toLocaleString('en')}</span></td>
            <td class="num">{f.limit > 0 ? `${f.running.toLocaleString('en')} of ${f.limit.toLocaleString('en')}` : '–'}</td>
            <td class="quiet c-then">{f.guard || f.kind === 'ENDPOINT' ? 'the request fails' : 'the request goes on'}</td>
          </tr>
        ))}</tbody>
      </table></div>
    </section>
  )
}
