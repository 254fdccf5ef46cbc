// What the platform's API answers, as far as the console reads it.

export interface Overview {
  time: string
  platform?: { status?: string; version?: string }
  traffic?: Traffic
  members?: Members
  services?: Service[]
  registry?: RegistryInstance[]
  instances?: FleetInstance[]
  clusters?: Cluster[]
  changes?: Change[]
  faults?: Fault[]
  node?: RegistryNode
  rollouts?: { rollouts: Rollout[]; more?: number }
  unreachable: Unreachable[]
  truncated: Record<string, number> // rows left out, by part
}

export interface Unreachable { room: string; part: string; error: string; since?: string }

export type Class = 'normal' | 'warning' | 'danger'

export interface Traffic {
  name?: string
  renderer?: string
  class?: Class
  maxVolume?: number
  updated?: number
  metadata?: { zones?: Record<string, number>; members?: Members; errorShare?: number; p50?: number | null; p99?: number | null }
  notices?: { title: string; severity?: number }[]
  nodes?: Traffic[]
  connections?: Connection[]
}

export interface Connection {
  source: string
  target: string
  class?: Class
  metrics?: { normal?: number; warning?: number; danger?: number } // per second
  metadata?: { p50?: number | null; p99?: number | null } // seconds
}

/** What members experience, by journey; "all" is all of them. */
export type Members = Record<string, Journey>

export interface Journey { rps?: number; success?: number; late?: number; p99?: number | null } // shares of 1, p99 in seconds

export interface Service {
  name: string
  instances: number
  up: number
  zones?: Record<string, { up: number; total: number }>
  criticality?: string
}

export interface RegistryInstance {
  id: string
  app: string
  group?: string
  host: string
  port: number
  location?: { region?: string; zone?: string }
  status: string
  since?: string
  metadata?: Record<string, string>
}

/** The registry of this platform, as its status tells it. */
export interface RegistryNode {
  self: string
  location?: { region?: string; zone?: string }
  since: string
  warming: boolean
  apps: number
  instances: number
  statuses: Record<string, number>
  overrides: number
  preservation?: Silence
  peers?: Peer[]
}

/** Another registry that is told what clients tell this one. */
export interface Peer {
  url: string
  tried: boolean // there was an exchange with it
  reachable: boolean // the last one worked
  waiting: number // instances of which it does not know the newest yet
  lag: number // seconds for which the oldest of these has been waiting
}

/** What a registry does about silent instances, and why. */
export interface Silence {
  mode: 'normal' | 'asking' | 'thinning' | 'preserving' | 'off'
  reason: string
  since: string
  degraded: boolean
  late: number
  silent: number
  expected: number // renewals a minute
  observed: number
  threshold?: number // renewals a minute, where it is Eureka's rule
}

export interface Lease {
  id: string
  app: string
  group?: string
  location?: { region?: string; zone?: string }
  address: string
  says: string // what the instance says of itself
  status: string // what counts
  override?: string
  registered: string
  up?: string
  renewed: string
  interval: number // seconds
  duration: number // seconds
}

export interface Leases { leases: Lease[]; more: number }

/** Whom a property is for, or who asks; an empty field is any, or unknown. */
export interface Scope { env?: string; appId?: string; stack?: string; region?: string; zone?: string; cluster?: string; asg?: string; ami?: string; serverId?: string; countries?: string }

export interface Property extends Scope {
  propertyId: string
  key: string
  value: string
  type?: string
  constraint?: { min?: number; max?: number; pattern?: string }
  sensitive?: boolean
  description?: string
  email?: string
  ts?: number // ms
  rev?: number
  updatedBy?: string
  deleted?: boolean
}

export interface Listing { properties: Property[]; more?: number }

export interface Candidate extends Property { matches: boolean; wins: boolean; reason: string }

export type RolloutState = 'VALIDATED' | 'RUNNING' | 'PAUSED' | 'FOLDING' | 'UNFOLDING' | 'DONE' | 'ROLLED_BACK'

/** A change of properties that reaches few instances first, then more, then all. */
export interface Rollout {
  id: string
  title?: string
  changes: { op?: 'set' | 'delete'; record: Property; before?: Property }[]
  steps: { selector: string; bake?: string; needAck?: number; approval?: string }[]
  guards?: { health?: { instances?: number; points?: number; off?: boolean }; metrics?: { query: string; compare: string; threshold: number; relative?: boolean }[]; pass?: number; marginal?: number }
  state: RolloutState
  phase?: string
  step: number // of steps, the last one applied; -1 = none
  since: string
  reason?: string
  chosen?: string[]
  created: string
  actor: string
  why?: string
  history?: { at: string; event: string; state: string; phase?: string; step: number; actor: string; why?: string }[]
  rev?: number
  status?: RolloutStatus // while it is under way
}

export interface RolloutStatus {
  reached: number // instances that see it
  lost: number // of them that are no longer up as they were
  others: number // that it concerns and that do not see it
  missed: number // of those that are no longer up as they were
  readers: number // that see it and acknowledge what they take
  acked: number // of them that did
  flaws?: { serverId: string; key: string; error: string }[]
  waiting?: string
  until?: string // when the step has been watched long enough
}

export interface FleetInstance {
  id: string
  group: string
  app: string
  zone: string
  port: number
  pid?: number
  state: string
  restarts: number
  since?: string
  lastExit?: string | { why?: string } | null
  health?: string // a status, or what the last probe found in words
  reason?: string
  outOfService?: boolean
}

export interface Cluster { name: string; serverGroups?: (string | { name: string; disabled?: boolean })[] }

export interface Change {
  id: number
  time: string
  actor: string
  action: string
  resource: string
  why?: string
  before?: unknown
  after?: unknown
  result: string
  parent?: number
  error?: string
}

export interface Fault {
  id: string
  description?: string
  rules: string
  who?: { percent?: number; users?: string[]; devices?: string[]; header?: Record<string, string> }
  where?: { zones?: string[]; clusters?: string[]; routes?: string[] }
  experiment?: string
  owner?: string
  expires: string
  actor?: string
  why?: string
  created?: string
}

/** How many requests a fault concerned at the edge, and as many that were spared. */
export interface FaultCounts {
  id: string
  injected: { requests: number; failed: number }
  control: { requests: number; failed: number }
}

export interface GraphData { start: number; step: number; legend: string[]; values: (number | string)[][] }

/** A route of the edge, as its document has it. */
export interface EdgeRoute {
  id: string
  match?: { hosts?: string[]; path?: { exact?: string; prefix?: string; regex?: string }; methods?: string[]; headers?: unknown[]; query?: unknown[]; cookies?: unknown[]; scheme?: string; when?: string }
  priority?: number
  filters?: Record<string, unknown>[]
  backends?: { vip?: string; addr?: string; status?: number; weight?: number; sticky?: string }[]
  timeouts?: { request?: string; attempt?: string }
  mirror?: { vip: string; percent?: number }
  disabled?: boolean
}

export interface EdgeRoutes { routes: EdgeRoute[] | null; apps: string[] | null; refused?: string }

export interface EdgeExplanation {
  route: string
  backends?: string[]
  path?: string
  why: string
  document?: string
  line?: number
  surgical?: string
  host?: string
  shares?: { backend: string; percent: number; sticky?: string; chosen?: boolean }[]
  endpoint?: string
  inbound?: string[]
  outbound?: string[]
  timeout?: string
  mirror?: string
  others?: { route: string; matches: boolean; why: string }[]
}

export interface EdgeFilter { name: string; kind: 'INBOUND' | 'ENDPOINT' | 'OUTBOUND'; order: number; disabled: boolean; guard: boolean; running: number; limit: number; runs: number; skipped: number; failed: number; mean: number } // mean in ns

export interface Regions {
  region: string
  regions: RegionView[]
  visitors: { inFlight: number; headroom: number; taken: number; refused: number; forged: number }
  kept: number
  problem?: string
}

export interface RegionView {
  region: string
  own?: boolean
  document: { state: string; to?: Record<string, number>; reason?: string }
  moved: number
  goal: number
  paused?: string
  refused?: string
  proposal?: Proposal
  tunnel?: { inFlight: number; requests: number; last: number; failed: number; shut: boolean }
}

/** Why a region should be evacuated, and what has become of that. */
export interface Proposal {
  state: 'OPEN' | 'REFUSED' | 'EXPIRED' | 'ACTED'
  at: string
  good: number
  expected: number
  sigma: number
  baseline: string
  to: Record<string, number>
}

/** How regions are judged, and whether whoever leads clients to them is told. */
export interface RegionsWatch {
  leads: boolean
  problem?: string
  auto: boolean
  regions: { region: string; good?: number; expected?: number; baseline?: string; silent?: string }[]
  weights?: { url: string; accepted?: string; failing?: string; attempts?: number }
}

export interface Origin {
  app: string
  breaker: string
  inFlight: number
  limit: number
  requests: number
  errorPercent: number
  p50Seconds: number
  p99Seconds: number
  panic?: boolean
  retries: { allowed: number; used: number }
  protocol: string
  instances: OriginInstance[]
}

export interface OriginInstance {
  id: string
  address: string
  zone: string
  status: string
  eligible: boolean
  why?: string
  ejectedUntil?: string
  refusedUntil?: string
  scoreSeconds: number
  active: number
  utilization: number
  errorRate: number
  warm: number
  requests: number
  failures: number
  idle: number
  inUse: number
}

export interface Talker { name: string; requests: number; bytes: number; failed: number }

/** One request as the access log tells it. */
export interface EdgeRequest { ts: string; id: string; client?: string; method: string; host?: string; path: string; status: number; category: string; ms: number; route?: string; origin?: string; attempts?: number; error?: string; passport?: string }

export interface Shedding {
  x: number
  threshold: number
  floor: number
  forced: number
  signals: { name: string; value: number; soft: number; hard: number; x: number }[]
  shed: Record<string, number>
  apps: { app: string; inFlight: number; limit: number; slow: boolean; overloaded: number; threshold: number; refused: number }[]
}

export interface EdgeProgram { name: string; phase: string; order: number; global: boolean; versions: { version: string; state: string; kind: string; percent: number; runs: number; failures: number; lastError?: string }[] | null; refused?: string }
