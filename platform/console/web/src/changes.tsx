// The change log: who did what to which resource, when and why, and what was different afterwards.

import { useState } from 'preact/hooks'
import type { Change } from './types'
import type { Model } from './model'
import { list } from './model'
import { get } from './api'
import { Ago, Empty } from './ui'
import { count, deedOf, exact, when } from './format'

export function ChangesPage({ model }: { model: Model }) {
  const [older, setOlder] = useState<Change[]>([])
  const [end, setEnd] = useState(false)
  const [error, setError] = useState('')
  const [filter, setFilter] = useState('')
  const byId = new Map([...older, ...model.changes].map(c => [c.id, c]))
  const all = [...byId.values()].sort((a, b) => b.id - a.id)
  const f = filter.trim().toLowerCase()
  const shown = all.filter(c => !f || [c.actor, c.action, c.resource, c.why ?? '', c.result, deedOf(c).join(' ')].some(s => s.toLowerCase().includes(f)))
  const more = async () => {
    try {
      // What came live since may have left a hole after the loaded ones: read on from the oldest without one.
      let page = await get<{ changes?: Change[]; next?: string | number }>(`/api/v1/changes?limit=50&cursor=${lowest(all)}`)
      const got = list(page.changes ?? (page as unknown as Change[]))
      setOlder(o => [...o, ...got])
      setEnd(got.length === 0 || got.some(c => c.id === 1))
      setError('')
    } catch (e) {
      setError((e as Error).message)
    }
  }
  const first = all.length > 0 && all[all.length - 1].id === 1
  return (
    <>
      <div class="bar">
        <p class="quiet">{f ? `${shown.length} of ${count(all.length, 'change')} shown` : 'The newest first, as they happen'}</p>
        <label class="search"><span class="hidden">Filter by person, action, resource or reason</span><input type="search" placeholder="Filter by who, what or why" value={filter} onInput={e => setFilter(e.currentTarget.value)} data-testid="filter" /></label>
      </div>
      <section class="panel" aria-label="Changes">
        {all.length === 0 && <Empty title="Nothing was changed yet." />}
        {all.length > 0 && shown.length === 0 && <Empty title={`Nothing matches “${filter}”.`} />}
        <ol class="changes" data-testid="changes">{shown.map(c => <Row key={c.id} c={c} now={model.now} />)}</ol>
        {error && <p class="problem" role="alert">{error}</p>}
        {all.length > 0 && !first && !end && <p class="more"><button type="button" onClick={more} data-testid="older">Older changes</button></p>}
      </section>
    </>
  )
}

// The id below which changes have not been read: where the first gap is.
function lowest(all: Change[]): number {
  for (let i = 1; i < all.length; i++) if (all[i - 1].id - all[i].id > 1) return all[i - 1].id
  return all[all.length - 1].id
}

function Row({ c, now }: { c: Change; now: number }) {
  const [verb, name] = deedOf(c)
  return (
    <li>
      <details>
        <summary>
          <span class="when"><Ago at={when(c.time)} now={now} /></span>
          <span class="who">{c.actor}</span>
          <span class="what">{verb} <span class="name">{name}</span>{c.result !== 'SUCCEEDED' && <span class="chip off">{c.result.toLowerCase()}</span>}</span>
          <span class="why quiet">{c.why || '–'}</span>
        </summary>
        <div class="change-body">
          <dl class="facts">
            <div><dt>When</dt><dd>{exact(c.time)}</dd></div>
            <div><dt>Action</dt><dd class="name">{c.action}</dd></div>
            <div><dt>Resource</dt><dd class="name">{c.resource}</dd></div>
            <div><dt>Number</dt><dd>{c.id}{c.parent ? `, about ${c.parent}` : ''}</dd></div>
          </dl>
          {c.error && <p class="problem">{c.error}</p>}
          <Diff before={c.before} after={c.after} />
        </div>
      </details>
    </li>
  )
}

function Diff({ before, after }: { before: unknown; after: unknown }) {
  if (before === undefined && after === undefined) return <p class="quiet">It says nothing about before and after.</p>
  return <Lines rows={diff(linesOf(before), linesOf(after))} />
}

/** Lines before and after, as [diff] tells them apart. */
export function Lines({ rows }: { rows: [' ' | '+' | '-', string][] }) {
  return (
    <table class="diff">
      <caption class="hidden">Before and after</caption>
      <thead class="hidden"><tr><th scope="col">Change</th><th scope="col">Line</th></tr></thead>
      <tbody>{rows.map(([sign, line], i) => <tr key={i} class={sign === '+' ? 'added' : sign === '-' ? 'removed' : ''}><th scope="row"><span aria-hidden="true">{sign}</span><span class="hidden">{sign === '+' ? 'after' : sign === '-' ? 'before' : 'same'}</span></th><td>{line}</td></tr>)}</tbody>
    </table>
  )
}

function linesOf(v: unknown): string[] {
  return v === undefined || v === null ? [] : JSON.stringify(v, null, 2).split('\n')
}

/** Lines with "-" for those only before, "+" for those only after: a longest common subsequence. */
export function diff(a: string[], b: string[]): [' ' | '+' | '-', string][] {
  if (a.length * b.length > 400_000) return [...a.map(l => ['-', l] as ['-', string]), ...b.map(l => ['+', l] as ['+', string])]
  const same = (x: string, y: string) => x.replace(/,$/, '') === y.replace(/,$/, '')
  const best = Array.from({ length: a.length + 1 }, () => new Uint32Array(b.length + 1))
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) best[i][j] = same(a[i], b[j]) ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1])
  }
  const out: [' ' | '+' | '-', string][] = []
  let [i, j] = [0, 0]
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && same(a[i], b[j])) {
      out.push([' ', b[j]])
      i++
      j++
    } else if (j === b.length || (i < a.length && best[i + 1][j] >= best[i][j + 1])) out.push(['-', a[i++]])
    else out.push(['+', b[j++]])
  }
  return out
}
