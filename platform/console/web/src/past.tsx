// What differs between then and now, and the way back.

import { useState } from 'preact/hooks'
import type { Property, Rollout } from './types'
import { type Model, list } from './model'
import { Refusal, send } from './api'
import { type Ask, Empty, useRead } from './ui'
import { For, known, scopeWords } from './scope'
import { ConfigTabs, Key, lastEdit, propertyHref, Value } from './config'
import { paces, rolloutHref } from './rollouts'
import { count } from './format'

interface Difference { before?: Property; after?: Property }

const spans = [['10m', '10 minutes ago'], ['1h', 'an hour ago'], ['24h', 'a day ago'], ['168h', 'a week ago']] as const

export function PastPage({ model, ask }: { model: Model; ask: (a: Ask) => void }) {
  const [ago, setAgo] = useState<string>('1h')
  const [at, setAt] = useState('') // as an input of date and time gives it
  const [app, setApp] = useState('')
  const given = ago === 'at'
  const from = given ? (at ? new Date(at).toISOString().replace(/\.\d+Z$/, 'Z') : '') : ago
  const filter = app && `&filter=${encodeURIComponent(`appId='${app.replaceAll("'", '')}'`)}`
  const { data, error, again } = useRead<{ differences: Difference[]; lost?: string[] }>(from && `/config/v1/diff?from=${encodeURIComponent(from)}${filter}`, 30_000, lastEdit(model))
  const differences = from ? list(data?.differences) : []
  const words = given ? 'then' : spans.find(([s]) => s === ago)![1]
  return (
    <>
      <ConfigTabs at="past" model={model} />
      <div class="bar">
        <div class="tools">
          <label class="range"><span>Since</span> <select value={ago} onChange={e => setAgo(e.currentTarget.value)} data-testid="past-ago">{spans.map(([s, w]) => <option key={s} value={s}>{w}</option>)}<option value="at">a date and time</option></select></label>
          {given && <label><span class="hidden">Date and time</span><input type="datetime-local" value={at} onInput={e => setAt(e.currentTarget.value)} data-testid="past-at" /></label>}
          <label><span class="hidden">App</span><select value={app} onChange={e => setApp(e.currentTarget.value)}><option value="">For any app or none</option>{known(model, 'appId', {}).map(a => <option key={a} value={a}>For {a}</option>)}</select></label>
        </div>
        <div class="tools"><button type="button" disabled={differences.length === 0} data-testid="restore" onClick={() => ask(back(from, words, app, differences, again))}>Make it as it was</button></div>
      </div>
      <section class="panel" aria-labelledby="past-title">
        <div class="panel-head"><h2 id="past-title">What is different from {words}</h2>{data && <span class="quiet" role="status">{count(differences.length, 'record')}</span>}</div>
        {error && <p class="problem" role="alert">{error}</p>}
        {!data && !error && <p class="calm">{from ? 'Comparing…' : 'Say which date and time.'}</p>}
        {data && from && differences.length === 0 && <Empty title="Nothing.">Every property is as it was {words}.</Empty>}
        {differences.length > 0 && (
          <table role="table" class="cards edits" data-testid="differences">
            <caption class="hidden">Properties that differ</caption>
            <thead><tr><th scope="col" class="c-key">Key</th><th scope="col" class="c-for">For</th><th scope="col" class="c-value">Then</th><th scope="col" class="c-value">Now</th></tr></thead>
            <tbody role="rowgroup">{differences.map(d => {
              const p = (d.after ?? d.before)!
              return (
                <tr role="row" key={p.propertyId}>
                  <th role="rowheader" scope="row" class="name"><a href={propertyHref(p.key)}><Key of={p.key} /></a></th>
                  <td role="cell" data-label="For"><For scope={p} /></td>
                  <td role="cell" data-label="Then">{d.before ? <Value p={d.before} /> : <span class="quiet">not set</span>}</td>
                  <td role="cell" data-label="Now">{d.after ? <Value p={d.after} /> : <span class="quiet">deleted</span>}</td>
                </tr>
              )
            })}</tbody>
          </table>
        )}
        {list(data?.lost).length > 0 && <p class="quiet under">Written too often since to know what they were: {data!.lost!.join(', ')}.</p>}
      </section>
    </>
  )
}

// Makes everything what it was, as a roll-out: at once, or in stages.
function back(from: string, words: string, app: string, differences: Difference[], again: () => void): Ask {
  const n = differences.length
  const draft = { pace: '' }
  // What is meant by "an hour ago" is settled when the dialog opens.
  const unit: Record<string, number> = { m: 60_000, h: 3_600_000 }
  const ago = /^(\d+)([mh])$/.exec(from)
  const at = ago ? new Date(Date.now() - Number(ago[1]) * unit[ago[2]]).toISOString() : from
  const go = (confirm: string) => async (why: string): Promise<string | Ask> => {
    try {
      const r = await send<Rollout>('POST', `/config/v1/rollback${confirm && `?confirm=${encodeURIComponent(confirm)}`}`, why, { at, app: app || undefined, steps: draft.pace ? paces[draft.pace].steps ?? paces.default.like : undefined })
      if (!r?.id) return 'Nothing is different from then.'
      location.hash = rolloutHref(r.id)
      return 'It is on its way back.'
    } catch (e) {
      if (!(e instanceof Refusal) || e.status !== 428 || confirm) throw e
      return {
        title: 'Many would be deleted', dangerous: true, verb: 'Go back all the same', done: '', do: go(String(e.details.find(d => d.location === 'query.confirm')?.value)),
        text: <p>{differences.filter(d => !d.before).length} properties are new since {words} and would be deleted.</p>,
      }
    } finally {
      again()
    }
  }
  return {
    title: `Make ${count(n, 'record')} as ${n === 1 ? 'it was' : 'they were'} ${words}?`, dangerous: true, verb: 'Go back', done: '', do: go(''),
    text: <><p>What is new since is deleted, what was changed or deleted is set again. It is a roll-out: all of it or nothing.</p><ul class="names">{differences.slice(0, 6).map(d => { const p = (d.after ?? d.before)!; return <li key={p.propertyId}><code>{p.key}</code> <span class="quiet">for {scopeWords(p)}</span></li> })}{n > 6 && <li class="quiet">and {n - 6} more</li>}</ul></>,
    fields: (
      <label class="field"><span>Who gets it</span>
        <select onChange={e => (draft.pace = e.currentTarget.value)} data-testid="pace"><option value="">everybody at once</option>{Object.entries(paces).map(([k, p]) => <option key={k} value={k}>in stages: {p.words}</option>)}</select>
      </label>
    ),
  }
}
