// The first page: the live picture, the figures that matter, and what needs a look.

import { useEffect, useRef } from 'preact/hooks'
import type { Change, Class } from './types'
import type { Live, Moment } from './store'
import { type Edge, type Flow, type Model, type Node, outside } from './model'
import { Graph, GraphTable, label, Legend } from './graph'
import { rolloutHref, standing, titleOf, underWay } from './rollouts'
import { Age, Ago, classWord, Empty, Mark, Spark, Status } from './ui'
import { count, deedOf, deeds, percent, rate, seconds, span, success, when } from './format'

export function OverviewPage({ live, model, theme, selected, select }: { live: Live; model: Model; theme: string; selected: string | undefined; select: (name: string | undefined) => void }) {
  const node = model.nodes.find(n => n.name === selected)
  const stale = live.lost || !!live.overview?.unreachable.some(u => u.part === 'traffic')
  return (
    <>
      <Headline model={model} past={live.past} />
      <div class="overview">
        <section class="panel picture" aria-labelledby="traffic-title">
          <div class="panel-head"><h2 id="traffic-title">Traffic</h2><Legend /></div>
          {model.nodes.length === 0
            ? <Empty title="Nothing calls anything yet.">Start a service with <code>roadbed run --name hello --port 8081 -- python3 -m http.server --bind 127.0.0.1 {'{port}'}</code>, then ask for <code>/hello/</code> at the edge.</Empty>
            : <><Graph nodes={model.nodes} edges={model.edges} now={model.now} theme={theme} stale={stale} selected={selected} select={select} /><GraphTable edges={model.edges} /></>}
        </section>
        <div class="rail">
          {node ? <Details node={node} model={model} close={() => {
            select(undefined)
            document.querySelector<HTMLElement>(`[data-testid="node-${CSS.escape(node.name)}"]`)?.focus()
          }} /> : <Attention model={model} />}
          <Latest model={model} />
        </div>
      </div>
    </>
  )
}

function Headline({ model: m, past }: { model: Model; past: Moment[] }) {
  const column = (k: keyof Moment) => past.map(p => p[k])
  const broken = m.entry.rps > 0 && m.entry.danger > 0.01
  const missing = m.total - m.up
  const back = m.services.flatMap(s => s.instances).filter(i => i.back).length
  return (
    <section aria-label="Headline figures">
      <dl class="tiles" data-testid="headline">
        {m.members && <Members of={m.members} values={column('members')} />}
        <Tile name="Requests" value={rate(m.entry.rps)} unit="per second" spark={<Spark values={column('rps')} low={0} />} />
        <Tile name="Success" value={success(m.entry.rps ? 1 - m.entry.danger : undefined)} unit="at the edge" kind={broken ? 'danger' : 'normal'} spark={<Spark values={column('success')} kind={broken ? 'danger' : 'normal'} />} />
        <Tile name="Latency" value={seconds(m.entry.p99)} unit="p99 at the edge" spark={<Spark values={column('p99')} low={0} />} />
        <Tile name="Instances" value={`${m.up}/${m.total}`} unit={missing ? `up, ${missing} not` : back ? `up, ${back} came back` : 'up'} kind={missing ? 'warning' : 'normal'} spark={<Spark values={column('up')} low={0} kind={missing ? 'warning' : 'normal'} />} href="#/services" />
        <Tile name="Faults" value={String(m.faults.length)} unit={m.faults.length ? 'being injected' : 'none injected'} kind={m.faults.length ? 'warning' : 'normal'} href="#/faults" />
      </dl>
    </section>
  )
}

function Members({ of, values }: { of: Flow; values: number[] }) {
  const bad = of.danger > 0.001
  return <Tile name="Members" value={success(1 - of.danger)} unit={`succeed, p99 ${seconds(of.p99)}`} kind={bad ? 'danger' : 'normal'} spark={<Spark values={values} kind={bad ? 'danger' : 'normal'} />} />
}

function Tile({ name, value, unit, kind = 'normal', spark, href }: { name: string; value: string; unit: string; kind?: Class; spark?: preact.ComponentChildren; href?: string }) {
  return (
    <div class={`tile ${kind}`} data-testid={`tile-${name.toLowerCase()}`}>
      <dt>{href ? <a href={href}>{name}</a> : name}{kind !== 'normal' && <Mark kind={kind} />}</dt>
      <dd><b>{value}</b> <span>{unit}</span></dd>
      {spark}
    </div>
  )
}

function Attention({ model: m }: { model: Model }) {
  const instances = m.services.flatMap(s => s.instances).filter(i => i.state !== 'up')
  const nodes = m.nodes.filter(n => n.class !== 'normal' && n.name !== outside)
  const back = m.services.flatMap(s => s.instances).filter(i => i.back)
  const rollouts = (m.rollouts ?? []).filter(underWay)
  const calm = instances.length + nodes.length + m.faults.length === 0 && !m.preserving && m.cutOff.length === 0
  return (
    <section class="panel" aria-labelledby="attention-title" data-testid="attention">
      <div class="panel-head"><h2 id="attention-title">Needs a look</h2></div>
      {calm && <p class="calm"><Mark kind="normal" /> {m.total ? `Nothing. All ${count(m.total, 'instance')} are up.` : 'Nothing runs yet.'}</p>}
      <ul class="lines">
        {m.cutOff.map(url => <li key={url}><Mark kind="danger" /><span><a href="#/registry">{url}</a> <span class="quiet">a peer of the registry, is not reached</span></span></li>)}
        {m.preserving && <li><Mark kind="warning" /><span><a href="#/registry">Self-preservation</a> <span class="quiet">{m.preserving}</span></span></li>}
        {rollouts.map(r => {
          const [kind, words] = standing(r)
          return <li key={r.id}><Mark kind={kind === 'idle' ? 'normal' : kind} /><span><a href={rolloutHref(r.id)}>{titleOf(r)}</a> <span class="quiet">roll-out, {words}</span></span></li>
        })}
        {m.faults.map(f => <li key={f.id}><Mark kind="warning" /><span><a href="#/faults">{f.description || f.id}</a> <span class="quiet">fault, ends in {span((when(f.expires) ?? 0) - m.now)}</span></span></li>)}
        {nodes.map(n => (
          <li key={n.name}><Mark kind={n.class} /><span><a href={`#/services/${encodeURIComponent(n.name)}`}>{n.name}</a> <span class="quiet">{n.danger >= 0.0005 ? `${percent(n.danger)} errors` : n.warning > 0 ? `${percent(n.warning)} slow or fallback` : classWord[n.class]}</span></span></li>
        ))}
        {instances.slice(0, 8).map(i => <li key={i.id}><Status of={i} /><span><a href={`#/services/${encodeURIComponent(i.app)}`}>{i.id}</a> <span class="quiet">{i.reason || i.zone}</span></span></li>)}
        {back.slice(0, 4).map(i => <li key={i.id} data-testid={`back-${i.id}`}><Mark kind="normal" /><span><a href={`#/services/${encodeURIComponent(i.app)}`}>{i.id}</a> <span class="quiet">came back <Ago at={i.back} now={m.now} /></span></span></li>)}
        {instances.length > 8 && <li><a href="#/services">and {instances.length - 8} more</a></li>}
      </ul>
    </section>
  )
}

function Latest({ model: m }: { model: Model }) {
  return (
    <section class="panel" aria-labelledby="latest-title">
      <div class="panel-head"><h2 id="latest-title">Latest changes</h2><a href="#/changes">All changes</a></div>
      {m.changes.length === 0 && <p class="calm">Nothing was changed yet.</p>}
      <ol class="lines feed">
        {runs(m.changes).slice(0, 9).map(run => {
          const c = run[0]
          const [verb, name] = deedOf(c)
          return (
            <li key={run[run.length - 1].id}>
              <span class="when"><Ago at={when(c.time)} now={m.now} /></span>
              <span>
                <b>{c.actor}</b> {c.result === 'FAILED' ? 'failed: ' : c.result === 'DENIED' ? 'was denied: ' : ''}
                {run.length === 1 ? <>{verb} <span class="name">{name}</span></> : <>{deeds(c.action, c.resource, run.length)}: <span class="name">{run.slice(0, 3).map(r => deedOf(r)[1]).join(', ')}</span>{run.length > 3 && <> and {run.length - 3} more</>}</>}
                {c.why && <span class="why">{c.why}</span>}
              </span>
            </li>
          )
        })}
      </ol>
    </section>
  )
}

// Changes of one kind that one actor made one after the other for one reason are one line.
function runs(changes: Change[]): Change[][] {
  const alike = (a: Change, b: Change) => a.actor === b.actor && a.action === b.action && a.why === b.why && a.result === b.result && Math.abs((when(a.time) ?? 0) - (when(b.time) ?? 0)) < 60_000
  const out: Change[][] = []
  for (const c of changes) {
    const last = out[out.length - 1]
    if (last && c.why && alike(last[last.length - 1], c)) last.push(c)
    else out.push([c])
  }
  return out
}

function Details({ node, model, close }: { node: Node; model: Model; close: () => void }) {
  const head = useRef<HTMLHeadingElement>(null)
  useEffect(() => head.current?.focus({ preventScroll: matchMedia('(min-width: 1400px)').matches }), [node.name])
  const into = model.edges.filter(e => e.target === node.name)
  const out = model.edges.filter(e => e.source === node.name)
  const s = node.service
  return (
    <section class="panel details" aria-labelledby="details-title" data-testid="details" onKeyDown={e => e.key === 'Escape' && close()}>
      <div class="panel-head">
        <h2 id="details-title" ref={head} tabIndex={-1}><Mark kind={node.class} /> {label(node.name)} <span class="quiet">{node.rps ? classWord[node.class] : 'no traffic'}</span></h2>
        <button type="button" class="small" onClick={close}>Close</button>
      </div>
      <dl class="facts">
        <div><dt>Requests/s</dt><dd>{rate(node.rps)}</dd></div>
        <div><dt>Errors</dt><dd>{percent(node.danger)}</dd></div>
        <div><dt>Slow or fallback</dt><dd>{percent(node.warning)}</dd></div>
        <div><dt>p99</dt><dd>{seconds(node.p99)}</dd></div>
      </dl>
      <Calls title="Called by" edges={into} end="source" />
      <Calls title="Calls" edges={out} end="target" />
      {s && s.instances.length > 0 && (
        <>
          <h3>Instances</h3>
          <ul class="lines">{s.instances.map(i => <li key={i.id}><Status of={i} /><span class="name">{i.id}</span><span class="quiet">{i.zone}, <Age since={i.since} now={model.now} /></span></li>)}</ul>
        </>
      )}
      {node.name !== outside && <p class="more"><a class="button" href={`#/services/${encodeURIComponent(node.name)}`} data-testid="open-service">Graphs and logs of {node.name}</a></p>}
    </section>
  )
}

function Calls({ title, edges, end }: { title: string; edges: Edge[]; end: 'source' | 'target' }) {
  if (edges.length === 0) return null
  return (
    <table class="calls">
      <thead><tr><th scope="col">{title}</th><th scope="col" class="num">Requests/s</th><th scope="col" class="num">Errors</th><th scope="col" class="num">p99</th></tr></thead>
      <tbody>
        {[...edges].sort((a, b) => b.rps - a.rps).map(e => (
          <tr key={e[end]}><th scope="row"><Mark kind={e.class} /> {label(e[end])}</th><td class="num">{rate(e.rps)}</td><td class="num">{percent(e.danger)}</td><td class="num">{seconds(e.p99)}</td></tr>
        ))}
      </tbody>
    </table>
  )
}
