// The dialogs that set and delete a property.

import { useEffect, useState } from 'preact/hooks'
import type { Listing, Property, Scope } from './types'
import type { Model } from './model'
import { act, get, Refusal, send, sentence } from './api'
import { type Ask, useCalm } from './ui'
import { ScopeInputs, scopeOf, scopeWords } from './scope'
import { paces, rollOut } from './rollouts'
import { ago, count } from './format'

interface Draft {
  key: string
  value: string
  type: string // empty = as it is, or string
  scope: Scope
  description: string
  sensitive: boolean
  min: string
  max: string
  rev: number // that is replaced; 0 = nothing may be there
  pace: string // of a roll-out; empty = everybody at once
}

const types = ['string', 'int', 'long', 'float', 'bool', 'duration', 'list', 'map', 'json', 'regex']

const hints: Record<string, string> = {
  int: 'a whole number', long: 'a whole number', float: 'a number', bool: 'true or false', duration: '250ms, 1m30s, or milliseconds',
  list: 'comma-separated', map: 'a=1,b=2', regex: 'RE2 syntax',
}

/** Asks for a new property, one like p for another scope, or a new value of p. */
export function edit({ model, p, copy }: { model: Model; p?: Property; copy?: boolean }): Ask {
  const draft: Draft = {
    key: p?.key ?? '', value: p && !p.sensitive ? p.value : '', type: p ? p.type || 'string' : '', scope: p && !copy ? scopeOf(p) : {}, description: copy ? '' : p?.description ?? '',
    sensitive: p?.sensitive ?? false, min: bound(p?.constraint?.min), max: bound(p?.constraint?.max), rev: p && !copy ? p.rev ?? 0 : 0, pace: '',
  }
  const go = (confirm: string) => async (why: string): Promise<string | Ask> => {
    const body = recordOf(draft, p)
    try {
      if (draft.pace) return await rollOut(why, `${body.key} for ${scopeWords(draft.scope)}`, [{ op: 'set', record: body }], paces[draft.pace].steps, confirm)
      const saved = await send<{ warnings?: string[] }>('POST', `/config/v1/properties${confirm && `?confirm=${confirm}`}`, why, body, draft.rev)
      return saved?.warnings?.length ? `${draft.key} is set. Mind: ${saved.warnings.join('; ')}.` : `${draft.key} is set.`
    } catch (e) {
      if (e instanceof Refusal && e.status === 428 && !confirm) {
        return {
          title: 'For every app there?', dangerous: true, verb: 'Set for every app', done: '', do: go(String(e.details.find(d => d.location === 'query.confirm')?.value)),
          text: <p>It names no app, so it overrides what every app has in {scopeWords(draft.scope)}. To set it for one app, cancel and name that.</p>,
        }
      }
      if (!(e instanceof Refusal) || e.status !== 409 || draft.pace) throw e
      throw new Error(await conflict(draft))
    }
  }
  const title = !p ? 'New property' : copy ? 'Add a value for others' : 'Change the value'
  return {
    title, verb: p && !copy ? 'Save' : 'Set', done: '',
    text: p ? <p><code class="key">{p.key}</code>{!copy && <> for {scopeWords(p)}</>}. Who uses it has it within milliseconds.</p> : <p>Of all records of a key that fit a process, the most specific wins.</p>,
    fields: <Fields draft={draft} p={p} model={model} fixed={p && (copy ? 'key' : 'all')} />,
    do: go(''),
  }
}

/** Asks whether an older version v shall hold again in place of what is now, if anything is. */
export function putBack(v: Property, now: Property | undefined): Ask {
  const draft = { key: v.key, scope: scopeOf(v), rev: now?.rev ?? 0 }
  return {
    title: 'Put this value back?', verb: 'Put back', done: `${v.key} is as it was.`,
    text: <p><code class="key">{v.key}</code> for {scopeWords(v)} becomes <code class="key">{v.value || 'empty'}</code> again, as {v.updatedBy || 'somebody'} set it {ago(Date.now() - (v.ts ?? 0))}.</p>,
    do: async why => {
      const { key, value, type, description, constraint } = v
      try {
        await act('POST', '/config/v1/properties', why, { key, value, type, description, constraint, ...draft.scope, sourceOfUpdate: 'ui' }, draft.rev)
      } catch (e) {
        if (!(e instanceof Refusal) || e.status !== 409) throw e
        throw new Error(await conflict(draft))
      }
    },
  }
}

/** Asks whether to delete p. */
export function remove(p: Property): Ask {
  const draft = { key: p.key, scope: scopeOf(p), rev: p.rev ?? 0, pace: '' }
  return {
    title: 'Delete this value?', dangerous: true, verb: 'Delete', done: `${p.key} for ${scopeWords(p)} is deleted.`,
    text: <p><code class="key">{p.key}</code> for {scopeWords(p)}. What is less specific holds again, or the default in the code of each service.</p>,
    fields: <Pace draft={draft} />,
    do: async why => {
      try {
        if (draft.pace) return await rollOut(why, `delete ${p.key} for ${scopeWords(draft.scope)}`, [{ op: 'delete', record: { key: p.key, ...draft.scope } }], paces[draft.pace].steps, '')
        await act('DELETE', `/config/v1/properties/${encodeURIComponent(p.propertyId)}`, why, undefined, draft.rev)
      } catch (e) {
        if (!(e instanceof Refusal) || e.status !== 409 || draft.pace) throw e
        throw new Error(await conflict(draft))
      }
    },
  }
}

// Says what somebody else made of the property meanwhile, and lets the next try replace that.
async function conflict(draft: { key: string; scope: Scope; rev: number }): Promise<string> {
  const { properties } = await get<Listing>(`/config/v1/properties?key=${encodeURIComponent(draft.key.trim())}`)
  const now = properties.find(p => scopeWords(p).toLowerCase() === scopeWords(draft.scope).toLowerCase())
  if (!now) {
    draft.rev = 0
    return 'Somebody deleted it meanwhile. Again sets it anew; Cancel leaves it deleted.'
  }
  const was = draft.rev
  draft.rev = now.rev ?? 0
  const value = now.sensitive ? 'another value' : `“${now.value.length > 80 ? now.value.slice(0, 80) + '…' : now.value}”`
  const who = `${now.updatedBy || 'somebody'}, ${ago(Date.now() - (now.ts ?? 0))}`
  return was === 0
    ? `For exactly that scope it is set already: ${value} (${who}). Again replaces that; Cancel keeps it.`
    : `Somebody else was faster: it is ${value} now (${who}). Again replaces that; Cancel keeps it.`
}

function recordOf(draft: Draft, p: Property | undefined) {
  return {
    key: draft.key.trim(), value: draft.value, type: draft.type || undefined, ...draft.scope, description: draft.description || undefined,
    sensitive: draft.sensitive || undefined, constraint: constraintOf(draft, p), sourceOfUpdate: 'ui',
  }
}

function bound(n: number | undefined): string {
  return n === undefined ? '' : String(n)
}

function constraintOf(d: Draft, p: Property | undefined) {
  const numeric = ['int', 'long', 'float', 'duration'].includes(d.type)
  const min = numeric && d.min !== '' ? Number(d.min) : undefined
  const max = numeric && d.max !== '' ? Number(d.max) : undefined
  const pattern = p?.constraint?.pattern
  return min === undefined && max === undefined && !p?.constraint ? undefined : { min, max, pattern } // an empty one ends what was
}

interface Trial { valid: boolean; problems?: string[]; warnings?: string[]; affected: { instances: number; of: number; ids?: string[] } }

// Says, while one types, whether the platform would take it and whom it would reach.
function Trial({ body }: { body: string }) {
  const asked = useCalm(body, 400)
  const [trial, set] = useState<Trial>()
  useEffect(() => {
    let over = false
    set(undefined)
    if (asked) send<Trial>('POST', '/config/v1/validate?confirm=global', '', JSON.parse(asked)).then(t => over || set(t), () => undefined) // pressing the button tells
    return () => void (over = true)
  }, [asked])
  const n = trial?.affected.instances ?? 0
  return (
    <p class="trial" role="status" data-testid="trial">
      {!asked || asked !== body || !trial ? <span class="quiet">{body ? 'Looking whom it would reach…' : 'Nobody is reached yet: it has no key.'}</span>
        : !trial.valid ? <span class="bad">{sentence(trial.problems?.[0] ?? 'it would be refused').replace(/^Refused: /, '')}</span>
        : n === 0 ? <span>No instance that the platform knows would see a difference.</span>
        : <span title={trial.affected.ids?.join('\n')}>{n === trial.affected.of ? 'All ' : ''}{count(n, 'instance')}{n === trial.affected.of ? '' : ` of ${trial.affected.of.toLocaleString('en')}`} would see it: {trial.affected.ids?.slice(0, 3).join(', ')}{n > 3 && ` and ${n - 3} more`}.</span>}
    </p>
  )
}

function Fields({ draft, p, model, fixed }: { draft: Draft; p?: Property; model: Model; fixed?: 'key' | 'all' }) {
  const [, again] = useState(0)
  const set = (change: Partial<Draft>) => {
    Object.assign(draft, change)
    again(n => n + 1)
  }
  const numeric = ['int', 'long', 'float', 'duration'].includes(draft.type)
  const unit = draft.type === 'duration' ? ', ms' : ''
  const known = types.includes(draft.type) || draft.type === ''
  return (
    <>
      {!fixed && <label class="field"><span>Key</span><input type="text" class="name" required autofocus maxLength={512} value={draft.key} placeholder="api.recommendations.limit" autocomplete="off" spellcheck={false} onInput={e => set({ key: e.currentTarget.value })} data-testid="edit-key" /></label>}
      <label class="field">
        <span>Value <small>{draft.sensitive && fixed === 'all' ? 'the old one is not shown' : hints[draft.type]}</small></span>
        <textarea class="name" autofocus={!!fixed} rows={Math.min(8, Math.max(1, draft.value.split('\n').length, Math.ceil(draft.value.length / 52)))} value={draft.value} spellcheck={false} maxLength={65536} onInput={e => set({ value: e.currentTarget.value })} data-testid="edit-value" />
      </label>
      <div class="row">
        <label class="field"><span>Type</span>
          <select value={draft.type} onChange={e => set({ type: e.currentTarget.value })} data-testid="edit-type">
            {!fixed && <option value="">string, or that of the key</option>}
            {types.map(t => <option key={t}>{t}</option>)}
            {!known && <option>{draft.type}</option>}
          </select>
        </label>
        {numeric && <>
          <label class="field"><span>Least{unit}</span><input type="number" step="any" value={draft.min} placeholder="any" onInput={e => set({ min: e.currentTarget.value })} /></label>
          <label class="field"><span>Most{unit}</span><input type="number" step="any" value={draft.max} placeholder="any" onInput={e => set({ max: e.currentTarget.value })} /></label>
        </>}
      </div>
      {fixed !== 'all' && <fieldset><legend>For whom <small>empty is everybody; several with commas</small></legend><ScopeInputs id="edit" scope={draft.scope} model={model} change={scope => set({ scope })} /></fieldset>}
      {fixed !== 'key' && <label class="field"><span>What it is for <small>optional</small></span><input type="text" value={draft.description} maxLength={4096} autocomplete="off" onInput={e => set({ description: e.currentTarget.value })} data-testid="edit-description" /></label>}
      <Trial body={draft.key.trim() && JSON.stringify({ changes: [{ op: 'set', record: recordOf(draft, p) }] })} />
      <Pace draft={draft} />
      {!fixed && <label class="check"><input type="checkbox" checked={draft.sensitive} onChange={e => set({ sensitive: e.currentTarget.checked })} /> <span>Sensitive <small>nobody is shown the value again, only those who use it</small></span></label>}
    </>
  )
}

// Whether everybody gets it at once, or few first.
function Pace({ draft }: { draft: { pace: string } }) {
  const [pace, setPace] = useState(draft.pace)
  return (
    <label class="field"><span>Who gets it <small>{pace ? 'it is taken back by itself when they suffer' : ''}</small></span>
      <select value={pace} onChange={e => setPace((draft.pace = e.currentTarget.value))} data-testid="pace">
        <option value="">everybody at once</option>
        {Object.entries(paces).map(([k, p]) => <option key={k} value={k}>in stages: {p.words}</option>)}
      </select>
    </label>
  )
}
