// Whom a property is for: the fields of a scope, in words and in a form.

import type { Property, Scope } from './types'
import type { Model } from './model'

/** The fields, from general to specific, with their names for people. */
export const scopeFields = [
  ['env', 'env', 'Environment'], ['appId', 'app', 'App'], ['stack', 'stack', 'Stack'], ['region', 'region', 'Region'],
  ['zone', 'zone', 'Zone'], ['cluster', 'cluster', 'Cluster'], ['asg', 'group', 'Server group'], ['ami', 'ami', 'Image'],
  ['serverId', 'instance', 'Instance'], ['countries', 'countries', 'Countries'],
] as const satisfies readonly (readonly [keyof Scope, string, string])[]

export const everybody = 'everybody'

/** A scope in words: "app=api region=eu", or "everybody". */
export function scopeWords(s: Scope): string {
  return scopeFields.flatMap(([field, name]) => (s[field] ? [`${name}=${s[field]}`] : [])).join(' ') || everybody
}

export function For({ scope }: { scope: Scope }) {
  const set = scopeFields.filter(([f]) => scope[f])
  if (set.length === 0) return <>{everybody}</>
  return <>{set.map(([f, name]) => <span class="scope" key={f}>{name} <b>{scope[f]!.replaceAll(',', ', ')}</b></span>)}</>
}

export function scopeOf(p: Property): Scope {
  return Object.fromEntries(scopeFields.flatMap(([f]) => (p[f] ? [[f, p[f]]] : [])))
}

/** A scope as a query of the API. */
export function scopeQuery(s: Scope): string {
  return scopeFields.map(([f]) => (s[f] ? `&${f}=${encodeURIComponent(s[f])}` : '')).join('')
}

/** Whom the platform knows that a field may name. */
export function known(model: Model, field: keyof Scope, within: Scope): string[] {
  const all = model.services.flatMap(s => s.instances).filter(i => field === 'appId' || !within.appId || i.app === within.appId)
  const of: Partial<Record<keyof Scope, (i: (typeof all)[number]) => string>> = {
    appId: i => i.app, region: i => i.region, zone: i => i.zone, asg: i => i.group, serverId: i => i.id, cluster: i => i.group.replace(/-v\d+$/, ''),
  }
  return [...new Set(all.map(of[field] ?? (() => '')))].filter(Boolean).sort()
}

/** Inputs for the fields of a scope, with what the platform knows as suggestions. */
export function ScopeInputs({ id, scope, model, change, rare = ['env', 'stack', 'cluster', 'ami', 'countries'] }: { id: string; scope: Scope; model: Model; change: (s: Scope) => void; rare?: (keyof Scope)[] }) {
  const input = ([field, name, title]: (typeof scopeFields)[number]) => (
    <label class="field" key={field}>
      <span>{title}</span>
      <input type="text" list={`${id}-${field}`} value={scope[field] ?? ''} placeholder="any" autocomplete="off" spellcheck={false} maxLength={4096} onInput={e => change({ ...scope, [field]: e.currentTarget.value.trim() || undefined })} data-testid={`${id}-${name}`} />
      <datalist id={`${id}-${field}`}>{known(model, field, scope).map(v => <option key={v} value={v} />)}</datalist>
    </label>
  )
  const seldom = scopeFields.filter(([f]) => rare.includes(f))
  return (
    <>
      <div class="scope-inputs">{scopeFields.filter(([f]) => !rare.includes(f)).map(input)}</div>
      {seldom.length > 0 && <details class="seldom" open={seldom.some(([f]) => scope[f]) || undefined}><summary>By environment, stack, cluster, image or country</summary><div class="scope-inputs">{seldom.map(input)}</div></details>}
    </>
  )
}
