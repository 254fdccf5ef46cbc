// The overview as the pages see it: services with their instances and traffic, joined from what the rooms say.

import type { Change, Class, Connection, Fault, FleetInstance, Overview, Rollout, Traffic } from './types'
import { when } from './format'

export type State = 'up' | 'starting' | 'down' | 'disabled' | 'unknown'

export interface Instance {
  id: string
  app: string
  group: string
  region: string
  zone: string
  state: State
  status: string // the state in a word or two
  address: string
  pid?: number
  restarts?: number
  since?: number // ms
  reason: string // why it is not up, or what the fleet says of it
  probe: string // what the last health check found
  ours: boolean // the fleet runs it
  off: boolean // its group is disabled
  back?: number // when it came up again, ms; for a while after it was lost
}

export interface Group { name: string; disabled: boolean; ours: boolean; instances: Instance[] }

export interface Flow { // requests per second, and how they went
  rps: number
  warning: number // share of 1: slow, or answered by a fallback
  danger: number // share of 1: failed
  p50?: number // seconds
  p99?: number
}

export interface Edge extends Flow { source: string; target: string; class: Class }

export interface Node extends Flow { name: string; class: Class; service?: ServiceView }

export interface ServiceView extends Flow {
  name: string
  class: Class
  criticality: string
  up: number
  total: number
  zones: { name: string; instances: Instance[] }[]
  counts: [string, { up: number; total: number }][] // by zone, as the registry counts
  groups: Group[]
  instances: Instance[]
}

export interface Model {
  now: number // the platform's clock, ms
  nodes: Node[]
  edges: Edge[]
  services: ServiceView[]
  entry: Flow // what comes in from outside
  up: number
  total: number
  faults: Fault[]
  changes: Change[]
  members?: Flow
  rollouts?: Rollout[] // newest first; absent when the platform has none
  olderRollouts: number // that are over and not among them
  cutOff: string[] // peers of the registry that it does not reach
  preserving?: string // why the registry does not end leases as usual; absent when it does
}

// An instance that dies is up again in less than the second between two looks: that it was gone stays visible this long.
const backFor = 30_000

/** The name telemetry gives to whoever calls from outside. */
export const outside = 'INTERNET'

export function modelOf(o: Overview): Model {
  const region = regionOf(o.traffic)
  const edges = list(region?.connections).map(edgeOf)
  const instances = instancesOf(o)
  const services = servicesOf(o, instances, edges, region)
  const byName = new Map(services.map(s => [s.name, s]))
  const named = new Map(list(region?.nodes).map(n => [n.name ?? '', n]))
  const names = new Set([...named.keys(), ...edges.flatMap(e => [e.source, e.target]), ...byName.keys()])
  names.delete('')
  const nodes = [...names].map((name): Node => {
    const flow = together(edges.filter(e => (name === outside ? e.source : e.target) === name))
    flow.danger = Math.max(flow.danger, ownErrors(named.get(name)))
    return { name, ...flow, class: worst([...edges.filter(e => e.target === name), named.get(name) ?? {}]), service: byName.get(name) }
  })
  const m = o.members?.all
  return {
    now: when(o.time) ?? Date.now(),
    nodes,
    edges,
    services,
    entry: together(edges.filter(e => e.source === outside)),
    up: partial(o) ? sum(services.map(s => s.up)) : instances.filter(i => i.state === 'up').length,
    total: partial(o) ? sum(services.map(s => s.total)) : instances.length,
    faults: list(o.faults),
    changes: list(o.changes),
    rollouts: o.rollouts && list(o.rollouts as unknown as Rollout[]),
    olderRollouts: o.rollouts?.more ?? 0,
    cutOff: list(o.node?.peers).filter(p => p.tried && !p.reachable).map(p => p.url),
    preserving: ['asking', 'thinning', 'preserving'].includes(o.node?.preservation?.mode ?? '') ? o.node!.preservation!.reason : undefined,
    members: m && m.rps !== undefined ? { rps: m.rps, warning: 0, danger: 1 - (m.success ?? NaN), p99: m.p99 ?? undefined } : undefined,
  }
}

// The traffic picture is a globe of regions, a region of services. We show the first region that has any.
function regionOf(t: Traffic | undefined): Traffic | undefined {
  if (!t) return undefined
  return list(t.nodes).find(n => list(n.nodes).length > 0) ?? (list(t.connections).length > 0 ? t : list(t.nodes)[0])
}

function edgeOf(c: Connection): Edge {
  const n = c.metrics?.normal ?? 0
  const w = c.metrics?.warning ?? 0
  const d = c.metrics?.danger ?? 0
  const rps = n + w + d
  return {
    source: c.source, target: c.target, rps, warning: rps && w / rps, danger: rps && d / rps,
    p50: c.metadata?.p50 ?? undefined, p99: c.metadata?.p99 ?? undefined, class: c.class ?? 'normal',
  }
}

function together(flows: Flow[]): Flow {
  const rps = flows.reduce((s, f) => s + f.rps, 0)
  const share = (k: 'warning' | 'danger') => rps && flows.reduce((s, f) => s + f.rps * f[k], 0) / rps
  // Percentiles of different callers cannot be added: the worst caller's is shown.
  const most = (k: 'p50' | 'p99') => flows.reduce<number | undefined>((m, f) => (f[k] === undefined ? m : Math.max(m ?? 0, f[k])), undefined)
  return { rps, warning: share('warning'), danger: share('danger'), p50: most('p50'), p99: most('p99') }
}

// A service that fails while its callers have fallbacks fails nonetheless.
function ownErrors(node: Traffic | undefined): number {
  return node?.metadata?.errorShare ?? 0
}

// How a service fares is the worse of what it says itself and what its callers see.
function worst(of: { class?: Class }[]): Class {
  return of.some(e => e.class === 'danger') ? 'danger' : of.some(e => e.class === 'warning') ? 'warning' : 'normal'
}

function instancesOf(o: Overview): Instance[] {
  const all = new Map<string, Instance>()
  for (const r of list(o.registry)) {
    const [state, status] = stateOf(r.status)
    all.set(r.id, {
      id: r.id, app: r.app, group: r.group ?? '', region: r.location?.region ?? '', zone: r.location?.zone || r.metadata?.zone || '', state, status,
      address: `${r.host}:${r.port}`, since: when(r.since), reason: '', probe: '', ours: false, off: false,
    })
  }
  const now = when(o.time) ?? Date.now()
  for (const f of list(o.instances)) {
    const known = all.get(f.id)
    const told = f.health ? stateOf(f.health) : undefined
    const said = told && told[0] !== 'unknown' // else it is prose
    // A process that does not run is what its process is; one that runs is what the registry says, else its health.
    let [state, status] = stateOf(f.state)
    if (state === 'up' && known && known.state !== 'unknown') [state, status] = [known.state, known.status]
    else if (state === 'up' && told && said) [state, status] = told
    if (state === 'up' && f.outOfService) [state, status] = stateOf('OUT_OF_SERVICE')
    all.set(f.id, {
      id: f.id, app: f.app, group: f.group, region: known?.region ?? '', zone: f.zone, state, status, address: known?.address ?? (f.port ? `127.0.0.1:${f.port}` : '–'), pid: f.pid || undefined,
      restarts: f.restarts, since: when(f.since) ?? known?.since, ours: true, off: f.outOfService === true,
      back: state === 'up' && f.restarts > 0 && now - (when(f.since) ?? 0) < backFor ? when(f.since) : undefined,
      reason: [f.reason || (said || state === 'up' ? '' : f.health), state === 'up' || state === 'disabled' ? '' : exitOf(f)].filter(Boolean).join('; '), probe: f.health ?? '',
    })
  }
  return [...all.values()].sort((a, b) => a.app.localeCompare(b.app) || a.zone.localeCompare(b.zone) || a.id.localeCompare(b.id, 'en', { numeric: true }))
}

function exitOf(f: FleetInstance): string {
  const why = typeof f.lastExit === 'object' ? f.lastExit?.why : f.lastExit
  return why ? `last exit: ${why}` : ''
}

/** The state a word means, and the word for people. */
export function stateOf(word: string): [State, string] {
  const w = word.toUpperCase()
  switch (w) {
    case 'UP': case 'RUNNING': case 'HEALTHY': case 'PASSING': case 'OK': return ['up', 'up']
    case 'STARTING': case 'LAUNCHING': case 'ACCEPTED': case 'PENDING': return ['starting', 'starting']
    case 'BACKOFF': case 'RESTARTING': case 'WAITING': return ['down', 'restarting']
    case 'CRASH_LOOP': return ['down', 'crash loop']
    case 'STOPPING': case 'DRAINING': return ['starting', 'stopping']
    case 'OUT_OF_SERVICE': case 'DISABLED': return ['disabled', 'out of service']
    case 'DOWN': case 'UNHEALTHY': case 'FAILING': case 'FAILED': case 'EXITED': case 'DEAD': case 'KILLED': case 'STOPPED': return ['down', w === 'UNHEALTHY' || w === 'FAILING' ? 'down' : w.toLowerCase()]
    case '': case 'UNKNOWN': return ['unknown', 'unknown']
  }
  return ['unknown', w.toLowerCase().replace(/_/g, ' ')]
}

function servicesOf(o: Overview, instances: Instance[], edges: Edge[], region: Traffic | undefined): ServiceView[] {
  const listed = new Map(list(o.services).map(s => [s.name, s]))
  const disabled = new Set(list(o.clusters).flatMap(c => list(c.serverGroups)).flatMap(g => (typeof g !== 'string' && g.disabled ? [g.name] : [])))
  const said = new Map(list(region?.nodes).map(n => [n.name, n]))
  const names = [...new Set([...listed.keys(), ...instances.map(i => i.app)])].sort()
  return names.map(name => {
    const mine = instances.filter(i => i.app === name)
    const into = edges.filter(e => e.target === name)
    const flow = together(into)
    flow.danger = Math.max(flow.danger, ownErrors(said.get(name)))
    const groups = [...new Set(mine.map(i => i.group))].sort().map((g): Group => {
      const members = mine.filter(i => i.group === g)
      return {
        name: g, instances: members, ours: members.some(i => i.ours),
        disabled: disabled.has(g) || members.some(i => i.off) || members.every(i => i.state === 'disabled'),
      }
    })
    const zones = [...new Set(mine.map(i => i.zone))].sort().map(z => ({ name: z, instances: mine.filter(i => i.zone === z) }))
    return {
      name, ...flow, class: worst([...into, said.get(name) ?? {}]), criticality: (listed.get(name)?.criticality || 'CRITICAL').toUpperCase(),
      up: mine.length && !partial(o) ? mine.filter(i => i.state === 'up').length : (listed.get(name)?.up ?? 0),
      total: partial(o) ? Math.max(mine.length, listed.get(name)?.instances ?? 0) : mine.length || (listed.get(name)?.instances ?? 0), zones, groups, instances: mine,
      counts: Object.entries(listed.get(name)?.zones ?? {}).sort(([a], [b]) => a.localeCompare(b)),
    }
  })
}

// Whether there are more instances than the overview lists. Then those of a service are counted by the registry.
function partial(o: Overview): boolean {
  return Object.keys(o.truncated ?? {}).length > 0
}

function sum(numbers: number[]): number {
  return numbers.reduce((s, n) => s + n, 0)
}

/** A list that may be missing, or be the only list of a wrapping object. */
export function list<T>(x: T[] | null | undefined): T[] {
  if (Array.isArray(x)) return x
  if (x && typeof x === 'object') return Object.values(x as object).find(Array.isArray) ?? []
  return []
}

/** The letter by which a zone is known: "zone-a" is a, and so is us-east-1a; of a whole word its first. */
export function zoneLetter(zone: string): string {
  return /(?:^|[^a-z])[a-z]$|\d$/i.exec(zone)?.[0].slice(-1) ?? zone[0] ?? '?'
}
