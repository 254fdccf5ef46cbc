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
  who?: { percent?: number; users?: string[]; header?: Record<string, string> }
  expires: string
  actor?: string
  why?: string
  created?: string
}

export interface GraphData { start: number; step: number; legend: string[]; values: (number | string)[][] }
