// What becomes of a request at the edge, and why: asked with a form, answered in a sentence and a table.

import { useState } from 'preact/hooks'
import type { EdgeExplanation } from './types'
import { get } from './api'
import { Mark } from './ui'

const methods = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS']

export function Explain({ example }: { example: string }) {
  const [url, setURL] = useState('')
  const [method, setMethod] = useState('GET')
  const [fields, setFields] = useState('')
  const [answer, setAnswer] = useState<{ of: string; e?: EdgeExplanation; error?: string }>()
  const [busy, setBusy] = useState(false)
  const submit = async (e: Event) => {
    e.preventDefault()
    setBusy(true)
    const asked = url.trim() || example
    const of = `${method} ${asked}`
    const headers = fields.split('\n').map(s => s.trim()).filter(Boolean)
    try {
      const q = new URLSearchParams([['url', asked], ['method', method], ...headers.map(h => ['header', h])])
      setAnswer({ of, e: await get<EdgeExplanation>(`/api/v1/edge/explain?${q}`) })
    } catch (e) {
      setAnswer({ of, error: (e as Error).message })
    }
    setBusy(false)
  }
  return (
    <section class="panel" aria-labelledby="explain-title" data-testid="explain">
      <div class="panel-head"><h2 id="explain-title">Explain a URL</h2><span class="quiet">nothing is sent anywhere</span></div>
      <form onSubmit={submit} class="explain-form">
        <label class="field explain-method"><span>Method</span><select value={method} onChange={e => setMethod(e.currentTarget.value)} data-testid="explain-method">{methods.map(m => <option key={m}>{m}</option>)}</select></label>
        <label class="field explain-url"><span>URL</span><input type="text" class="name" value={url} placeholder={example} autocomplete="off" spellcheck={false} maxLength={8192} onInput={e => setURL(e.currentTarget.value)} data-testid="explain-url" /></label>
        <label class="field explain-fields"><span>Headers <small>one a line</small></span><textarea class="name" rows={1} value={fields} placeholder="X-Device: tv" spellcheck={false} onInput={e => setFields(e.currentTarget.value)} data-testid="explain-headers" /></label>
        <button type="submit" class="primary" disabled={busy} data-testid="explain-go">Explain</button>
      </form>
      {answer && <div role="status" data-testid="explained">{answer.error ? <p class="problem">{answer.error}</p> : <Answer of={answer.of} e={answer.e!} />}</div>}
    </section>
  )
}

/** The answer as one sentence. */
export function sentenceOf(e: EdgeExplanation): string {
  if (!e.route) return 'is answered 404: no route takes it.'
  const by = `takes the route ${e.route}`
  const chosen = e.shares?.find(s => s.chosen)?.backend
  const to = e.backends ?? []
  const path = e.path ? ` for ${e.path}` : ''
  if (e.surgical) return `${by}, and the surgical rule ${e.surgical} sends it to ${to.join(', ')}${path}.`
  if (e.endpoint && to.length === 0) return `${by}, which answers by itself: ${e.endpoint}.`
  if (e.endpoint?.startsWith('Redirect')) return `${by} and is led on: ${e.endpoint.charAt(0).toLowerCase()}${e.endpoint.slice(1)}.`
  if (chosen || to.length === 1) return `${by}, and ${chosen ?? to[0]} is asked${path}.`
  return `${by}, and one of ${to.join(', ')} is asked${path}, by their shares.`
}

function Answer({ of, e }: { of: string; e: EdgeExplanation }) {
  const rows: [string, preact.ComponentChildren][] = []
  const row = (name: string, value: preact.ComponentChildren) => value && rows.push([name, value])
  row('Route', e.route && <b>{e.route}</b>)
  row('Why', e.why)
  row('Written in', e.line ? <><span class="name">{e.document}</span>, line {e.line}</> : e.document && <span class="name">{e.document}</span>)
  row('Surgical rule', e.surgical)
  row('Answered by', e.endpoint)
  row('Path asked for', e.path && <span class="name">{e.path}</span>)
  row('Host asked for', e.host && <span class="name">{e.host}</span>)
  row('Shares', e.shares && e.shares.length > 0 && <ul class="shares">{e.shares.map((s, i) => <li key={i}>{s.chosen && <Mark kind="normal" />} <b>{s.backend}</b> {+s.percent.toFixed(2)} %{s.sticky && <span class="quiet"> sticky by {s.sticky}</span>}{s.chosen && e.shares!.length > 1 && <span class="quiet"> answers this one</span>}</li>)}</ul>)
  row('Filters, in', e.inbound?.join(', '))
  row('Filters, out', e.outbound?.join(', '))
  row('Time limit', e.timeout)
  row('Copies to', e.mirror)
  return (
    <>
      <p class="verdict"><Mark kind={e.route ? 'normal' : 'warning'} /><span class="name">{of}</span> <span data-testid="explain-sentence">{sentenceOf(e)}</span></p>
      <table class="explained" data-testid="explain-table">
        <caption class="hidden">Why</caption>
        <tbody>{rows.map(([name, value]) => <tr key={name}><th scope="row" class="quiet">{name}</th><td>{value}</td></tr>)}</tbody>
      </table>
      {e.others && e.others.length > 0 && (
        <table class="others">
          <caption class="hidden">Routes that were near</caption>
          <thead><tr><th scope="col">What lost</th><th scope="col">Matches</th><th scope="col">Why it lost</th></tr></thead>
          <tbody>{e.others.map(o => <tr key={o.route}><th scope="row">{o.route}</th><td>{o.matches ? 'yes' : 'no'}</td><td class="quiet">{o.why}</td></tr>)}</tbody>
        </table>
      )}
    </>
  )
}
