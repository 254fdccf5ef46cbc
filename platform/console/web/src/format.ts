// Numbers and times as a person reads them.

const nbsp = '\u00a0'
const none = '–'

/** A count per second: 0.4, 12, 1,204, 23k. */
export function rate(n: number | undefined): string {
  if (n === undefined || !isFinite(n)) return none
  if (n === 0) return '0'
  if (n < 0.05) return '<0.1'
  if (n < 10) return n.toFixed(1)
  if (n < 10_000) return Math.round(n).toLocaleString('en')
  if (n < 1e6) return (n / 1e3).toFixed(n < 1e5 ? 1 : 0) + 'k'
  return (n / 1e6).toFixed(1) + 'M'
}

/** Seconds: 0.8 ms, 38 ms, 1.25 s. */
export function seconds(s: number | undefined): string {
  if (s === undefined || !isFinite(s)) return none
  if (s === 0) return '0' + nbsp + 'ms'
  const ms = s * 1e3
  if (ms < 1) return ms.toFixed(2) + nbsp + 'ms'
  if (ms < 10) return ms.toFixed(1) + nbsp + 'ms'
  if (ms < 1000) return Math.round(ms) + nbsp + 'ms'
  return s.toFixed(s < 10 ? 2 : 1) + nbsp + 's'
}

/** A small share of 1, such as errors: 0 %, 0.04 %, 6.2 %. */
export function percent(share: number | undefined): string {
  if (share === undefined || !isFinite(share)) return none
  const p = share * 100
  if (p === 0) return '0' + nbsp + '%'
  if (p < 0.01) return '<0.01' + nbsp + '%'
  return (p < 1 ? p.toFixed(2) : p < 10 ? p.toFixed(1) : p.toFixed(0)) + nbsp + '%'
}

/** A share of 1 near 1, such as success; never rounded up to 100 %. */
export function success(share: number | undefined): string {
  if (share === undefined || !isFinite(share)) return none
  if (share >= 1) return '100' + nbsp + '%'
  const digits = share > 0.9999 ? 3 : share > 0.9 ? 2 : 1
  return (Math.floor(share * 100 * 10 ** digits) / 10 ** digits).toFixed(digits) + nbsp + '%'
}

/** A span of time, in its two largest units at most: 8 s, 3 min, 2 h 5 min. */
export function span(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1000))
  if (s < 60) return s + nbsp + 's'
  const m = Math.floor(s / 60)
  if (m < 60) return m < 10 && s % 60 ? `${m}${nbsp}min ${s % 60}${nbsp}s` : m + nbsp + 'min'
  const h = Math.floor(m / 60)
  if (h < 24) return m % 60 ? `${h}${nbsp}h ${m % 60}${nbsp}min` : h + nbsp + 'h'
  const d = Math.floor(h / 24)
  return h % 24 ? `${d}${nbsp}d ${h % 24}${nbsp}h` : d + nbsp + 'd'
}

/** How long ago, in one unit. */
export function ago(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1000))
  if (s < 5) return 'just now'
  if (s < 60) return s + nbsp + 's ago'
  if (s < 3600) return Math.floor(s / 60) + nbsp + 'min ago'
  if (s < 86400) return Math.floor(s / 3600) + nbsp + 'h ago'
  return Math.floor(s / 86400) + nbsp + 'd ago'
}

export function exact(time: string | number): string {
  const t = new Date(time)
  return isNaN(t.getTime()) ? '' : t.toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium' })
}

/** When, as milliseconds; undefined for nothing and for Go's zero time. */
export function when(time: string | undefined): number | undefined {
  if (!time || time.startsWith('0001')) return undefined
  const t = Date.parse(time)
  return isNaN(t) ? undefined : t
}

export function count(n: number, one: string, many = one + 's'): string {
  return `${n.toLocaleString('en')} ${n === 1 ? one : many}`
}

const past: Record<string, string> = {
  set: 'set', put: 'set', reset: 'reset', create: 'created', destroy: 'destroyed', delete: 'deleted', remove: 'removed', add: 'added',
  disable: 'disabled', enable: 'enabled', resize: 'resized', kill: 'killed', restart: 'restarted', start: 'started', stop: 'stopped',
  update: 'updated', expire: 'expired', register: 'registered', cancel: 'cancelled', override: 'overrode', evict: 'evicted', backup: 'backed up',
  restore: 'restored', replace: 'replaced', launch: 'launched', terminate: 'terminated', propose: 'proposed', abort: 'stopped', pause: 'paused', resume: 'resumed', advance: 'advanced', approve: 'approved',
  applied: 'reached the readers of', baked: 'watched', passed: 'judged', fail: 'rolled back', folded: 'wrote', unfolded: 'took back', conflict: 'found a conflict in', clear: 'cleared',
}

/** "serverGroup.resize" on "serverGroup:api-v003" as words: ["resized server group", "api-v003"]. */
export function deed(action: string, resource: string): [string, string] {
  const dot = action.lastIndexOf('.')
  const [noun, verb] = dot < 0 ? ['', action] : [action.slice(0, dot), action.slice(dot + 1)]
  const colon = resource.indexOf(':')
  const [kind, name] = colon < 0 ? [noun, resource] : [resource.slice(0, colon), resource.slice(colon + 1)]
  return [`${past[verb] ?? words(verb)} ${kind === 'rollout' ? 'roll-out' : words(kind)}`, name]
}

/** The same of a change. A roll-out has a title that says more than its name. */
export function deedOf(c: { action: string; resource: string; after?: unknown }): [string, string] {
  const [verb, name] = deed(c.action, c.resource)
  const title = c.resource.startsWith('rollout:') && (c.after as { title?: string } | undefined)?.title
  return [verb, title || name]
}

/** The same for several resources of a kind: "created 9 server groups". */
export function deeds(action: string, resource: string, n: number): string {
  const [noun] = deed('', resource).map(s => s.trim())
  const verb = deed(action, resource)[0].slice(0, -noun.length).trim()
  return `${verb} ${n} ${noun.endsWith('y') ? noun.slice(0, -1) + 'ies' : noun + 's'}`
}

/** "serverGroup" as "server group". */
export function words(s: string): string {
  return s.replace(/([a-z])([A-Z])/g, '$1 $2').replace(/_/g, ' ').toLowerCase()
}
