// Dynamic properties: what is set for whom, found by any word a person would remember; set, changed and deleted.

import { Fragment } from 'preact'
import { useState } from 'preact/hooks'
import type { Listing, Property } from './types'
import type { Model } from './model'
import { act, Refusal } from './api'
import { Ago, type Ask, Empty, Stale, useCalm, useRead } from './ui'
import { For, known, scopeWords } from './scope'
import { edit } from './edit'
import { Freeze, underWay } from './rollouts'
import { count } from './format'

const firstShown = 200

/** What changes when a property or a roll-out does: the number of the newest such change. */
export function lastEdit(model: Model): number {
  return model.changes.find(c => /^(property|rollout|fault)\b/.test(c.resource))?.id ?? 0
}

export function propertyHref(key: string): string {
  return `#/config/key/${encodeURIComponent(key)}`
}

export function ConfigPage({ model, ask }: { model: Model; ask: (a: Ask) => void }) {
  const [search, setSearch] = useState('')
  const [app, setApp] = useState('')
  const [most, setMost] = useState(firstShown)
  const q = useCalm(search.trim(), 200)
  const chosen = new URLSearchParams()
  if (q) chosen.set('q', q)
  if (app) chosen.set('filter', app === '-' ? 'appId is null' : `appId='${app.replaceAll("'", '')}'`)
  const { data, stale, error, again } = useRead<Listing>(`/config/v1/properties?limit=${most}&${chosen}`, 15_000, lastEdit(model))
  const found = data?.properties ?? []
  const all = found.length + (data?.more ?? 0)
  const doing = (a: Ask) => ask({ ...a, do: why => a.do(why).finally(again) })
  const narrowed = q !== '' || app !== ''
  return (
    <>
      <ConfigTabs at="config" model={model} />
      <Stale seconds={stale} />
      <Freeze model={model} ask={ask} offer={false} />
      <div class="bar">
        <div class="tools grow">
          <label class="search"><span class="hidden">Search keys, values and scopes</span><input type="search" placeholder="Search keys, values, scopes" value={search} onInput={e => { setSearch(e.currentTarget.value); setMost(firstShown) }} data-testid="config-search" /></label>
          <label><span class="hidden">App</span><select value={app} onChange={e => setApp(e.currentTarget.value)} data-testid="config-app"><option value="">For any app or none</option><option value="-">For no app in particular</option>{known(model, 'appId', {}).map(a => <option key={a} value={a}>For {a}</option>)}</select></label>
        </div>
        <div class="tools">
          {narrowed && found.length > 0 && <button type="button" onClick={() => doing(deleteAll(chosen, all, found))} data-testid="delete-found">Delete {all === 1 ? 'this one' : `these ${all.toLocaleString('en')}`}</button>}
          <button type="button" class="primary" onClick={() => doing(edit({ model }))} data-testid="new-property">New property</button>
        </div>
      </div>
      <section class="panel" aria-labelledby="properties-title">
        <div class="panel-head"><h2 id="properties-title">Properties</h2><span class="quiet" role="status" data-testid="found">{data && (narrowed ? `${count(all, 'record')} found` : count(all, 'record'))}</span></div>
        {error && <p class="problem" role="alert">{error}</p>}
        {!data && !error && <p class="calm">Reading the properties…</p>}
        {data && found.length === 0 && (narrowed
          ? <Empty title="Nothing is found.">Every word must occur: in the key, the value, the scope, the description or who wrote it. Values of sensitive properties are not searched.</Empty>
          : <Empty title="No property is set.">Services run on the defaults in their code. What is set here reaches every process it concerns within milliseconds, without a restart. The same by command: <code>roadbed config set KEY VALUE --app api</code></Empty>)}
        {found.length > 0 && (
          <table role="table" class="cards properties" data-testid="properties">
            <caption class="hidden">Properties with their scopes</caption>
            <thead><tr><th scope="col" class="c-key">Key</th><th scope="col" class="c-value">Value</th><th scope="col" class="c-type">Type</th><th scope="col" class="c-for">For</th><th scope="col" class="c-when">Changed</th><th scope="col" class="c-by">By</th></tr></thead>
            <tbody role="rowgroup">
              {found.map((p, i) => {
                const again = i > 0 && found[i - 1].key === p.key
                return (
                  <tr role="row" key={p.propertyId} class={again ? 'again' : ''} data-testid={`property-${p.key}`}>
                    <th role="rowheader" scope="row" class="name"><a href={propertyHref(p.key)} title={p.description || undefined}><Key of={p.key} /></a></th>
                    <td role="cell" data-label="Value"><Value p={p} /></td>
                    <td role="cell" data-label="Type" class="quiet">{p.type || 'string'}</td>
                    <td role="cell" data-label="For"><For scope={p} /></td>
                    <td role="cell" data-label="Changed"><Ago at={p.ts} now={model.now} /></td>
                    <td role="cell" data-label="By" class="ellipsis">{p.updatedBy || '–'}</td>
                  </tr>
                )
              })}
            </tbody>
          </table>
        )}
        {data?.more ? <p class="more"><button type="button" onClick={() => setMost(n => n * 5)}>Show more of {all.toLocaleString('en')}</button></p> : null}
      </section>
    </>
  )
}

/** The ways between the pages about configuration. */
export function ConfigTabs({ at, model }: { at: 'config' | 'rollouts' | 'past'; model: Model }) {
  const running = (model.rollouts ?? []).filter(underWay).length
  return (
    <nav class="tabs" aria-label="Configuration">
      <a href="#/config" aria-current={at === 'config' ? 'page' : undefined} data-testid="tab-properties">Properties</a>
      <a href="#/config/rollouts" aria-current={at === 'rollouts' ? 'page' : undefined} data-testid="tab-rollouts">Roll-outs{running > 0 && <span class="badge">{running}<span class="hidden"> under way</span></span>}</a>
      <a href="#/config/past" aria-current={at === 'past' ? 'page' : undefined} data-testid="tab-past">Then and now</a>
    </nav>
  )
}

/** A key that may break after its dots. */
export function Key({ of }: { of: string }) {
  return <>{of.split(/(?<=[./-])/).map((part, i) => <Fragment key={i}>{i > 0 && <wbr />}{part}</Fragment>)}</>
}

/** A value in one line; the whole is its title. */
export function Value({ p }: { p: Pick<Property, 'value' | 'sensitive' | 'deleted'> }) {
  if (p.deleted) return <span class="quiet">deleted</span>
  if (p.sensitive) return <span class="quiet" title="It is sensitive: only those who use it get to see it.">•••••• sensitive</span>
  if (p.value === '') return <span class="quiet">empty</span>
  return <code class="value" title={p.value}>{p.value.length > 300 ? p.value.slice(0, 300) + '…' : p.value}</code>
}

// Deletes what a search found. The platform asks to confirm when that is much.
function deleteAll(chosen: URLSearchParams, n: number, found: Property[]): Ask {
  const go = (token: string) => async (why: string): Promise<string | Ask> => {
    try {
      await act('DELETE', `/config/v1/properties?${chosen}${token && `&confirm=${encodeURIComponent(token)}`}`, why)
      return n === 1 ? 'The property is deleted.' : `${n.toLocaleString('en')} properties are deleted.`
    } catch (e) {
      if (!(e instanceof Refusal) || e.status !== 428) throw e
      const next = e.details.find(d => d.location === 'query.confirm')?.value
      if (token && next === token) throw e
      return confirmAll(n, go(String(next)))
    }
  }
  return {
    title: n === 1 ? 'Delete this property?' : `Delete these ${n.toLocaleString('en')} properties?`, dangerous: true, verb: 'Delete', done: '',
    text: <><p>What is less specific holds again, or the default in the code of each service. Their history stays.</p><Names found={found} n={n} /></>,
    do: go(''),
  }
}

function confirmAll(n: number, go: Ask['do']): Ask {
  let typed = ''
  return {
    title: `This is a lot: ${count(n, 'property', 'properties')}`, dangerous: true, verb: `Delete all ${n.toLocaleString('en')}`, done: '',
    text: <p>That is more than fifty, or a large part of what an app has. If it is meant, type how many. Should somebody change one of them meanwhile, nothing is deleted.</p>,
    fields: <label class="field"><span>Type {n}</span><input type="text" inputMode="numeric" required autofocus pattern={String(n)} title={`Type ${n} to go on`} autocomplete="off" onInput={e => (typed = e.currentTarget.value)} data-testid="typed" /></label>,
    do: async why => {
      if (typed.trim() !== String(n)) throw new Error(`Type ${n} to go on.`)
      return go(why)
    },
  }
}

function Names({ found, n }: { found: Property[]; n: number }) {
  return <ul class="names">{found.slice(0, 6).map(p => <li key={p.propertyId}><code>{p.key}</code> <span class="quiet">for {scopeWords(p)}</span></li>)}{n > 6 && <li class="quiet">and {(n - 6).toLocaleString('en')} more</li>}</ul>
}
