// One service: its graphs, where it can be reached, and what its instances log.

import { useEffect, useRef, useState } from 'preact/hooks'
import { type Model, type ServiceView } from './model'
import { Chart } from './chart'
import { Chip, GroupTable } from './services'
import { type Ask, classWord, Empty, Mark } from './ui'
import { percent, rate, seconds } from './format'

const ranges = [[10, '10 minutes'], [30, '30 minutes'], [60, '1 hour'], [360, '6 hours']] as const

export function ServicePage({ name, model, ask, theme }: { name: string; model: Model; ask: (a: Ask) => void; theme: string }) {
  const [minutes, setMinutes] = useState(10)
  const node = model.nodes.find(n => n.name === name)
  const s = node?.service ?? model.services.find(s => s.name === name)
  const status = name === 'edge' ? { metric: 'edge.request.duration', by: 'edge.status', only: '' } : { metric: 'ipc.server.call', by: 'ipc.status', only: `,nf.app,${name},:eq,:and` }
  const served = `name,${status.metric},:eq${status.only}`
  const called = `name,ipc.client.call,:eq,ipc.vip,${name},:eq,:and`
  const counted = ',statistic,count,:eq,:and,:sum'
  const chart = { minutes, theme }
  return (
    <>
      <div class="bar">
        {node
          ? <p class="numbers"><span><Mark kind={node.class} /> {node.rps ? classWord[node.class] : 'no traffic'}</span><span><b>{rate(node.rps)}</b> requests/s</span><span><b>{percent(node.danger)}</b> errors</span><span><b>{seconds(node.p99)}</b> p99</span>{s && <span><b>{s.up}/{s.total}</b> up</span>}{s && <Chip criticality={s.criticality} />}</p>
          : <p class="quiet">The traffic picture does not know it.</p>}
        <label class="range"><span>Show the last</span> <select value={minutes} onChange={e => setMinutes(Number(e.currentTarget.value))} data-testid="range">{ranges.map(([m, t]) => <option key={m} value={m}>{t}</option>)}</select></label>
      </div>
      <div class="charts">
        <Chart {...chart} title="Requests/s, by result" unit="rate" occurring query={`${served}${counted},(,${status.by},),:by,$(${status.by}),:legend`} series={statusColor} />
        <Chart {...chart} title={name === 'edge' ? 'Latency, as customers see it' : 'Latency, as the service sees it'} unit="seconds" query={`${served},(,50,99,),:percentiles`} name={percentile} series={percentileColor} />
        {name !== 'edge' && <>
          <Chart {...chart} title="Latency, as its callers see it" unit="seconds" query={`${called},(,50,99,),:percentiles`} name={percentile} series={percentileColor} />
          <Chart {...chart} title="Failed calls to it/s, by cause" unit="rate" occurring none="No call to it failed in this time." query={`${called},ipc.cause,none,:eq,:not,:and${counted},(,ipc.cause,),:by,$(ipc.cause),:legend`} />
          <Chart {...chart} title="Breakers of its callers" unit="breaker" query={`name,ipc.breaker.state,:eq,ipc.command,${name},:eq,:and,:max,(,nf.app,),:by,$(nf.app),:legend`} />
        </>}
        {name === 'edge'
          ? <Chart {...chart} title="Requests/s, by route" unit="rate" occurring query={`${served}${counted},(,edge.route,),:by,$(edge.route),:legend`} />
          : <Chart {...chart} title="Requests/s, by zone" unit="rate" query={`${served}${counted},(,nf.zone,),:by,$(nf.zone),:legend`} />}
      </div>
      {s && s.groups.length > 0 && (
        <section class="panel service" aria-labelledby="endpoints-title">
          <div class="panel-head"><h2 id="endpoints-title">Endpoints</h2></div>
          {s.groups.map(g => <GroupTable key={g.name} group={g} now={model.now} ask={ask} />)}
        </section>
      )}
      {s && s.instances.some(i => i.ours) && <Logs service={s} />}
      {!s && !node && <div class="panel"><Empty title={`There is no service ${name}.`}><a href="#/services">All services</a></Empty></div>}
    </>
  )
}

const percentile = (legend: string) => {
  const m = /(\d+(?:\.\d+)?)\s*\)?\s*$/.exec(legend) // percentile(name=ipc.server.call,  99.0)
  return m ? `p${Number(m[1])}` : legend
}

const percentileColor = (name: string) => ({ p50: 'series-1', p99: 'series-2' })[name]

const statusColor = (name: string) => ({ '2xx': 'series-1', '3xx': 'series-4', '4xx': 'warning', '5xx': 'danger' })[name]

const keptLines = 1000

function Logs({ service }: { service: ServiceView }) {
  const instances = service.instances.filter(i => i.ours)
  const [chosen, choose] = useState(instances[0].id)
  const id = instances.some(i => i.id === chosen) ? chosen : instances[0].id
  const [lines, setLines] = useState<string[]>([])
  const [paused, pause] = useState(false)
  const [lost, setLost] = useState(false)
  const box = useRef<HTMLPreElement>(null)
  const bottom = useRef(true)
  useEffect(() => {
    if (paused) return
    const waiting: string[] = []
    const source = new EventSource(`/api/v1/instances/${encodeURIComponent(id)}/logs?tail=200&follow=true`)
    source.onopen = () => {
      waiting.length = 0
      setLines([]) // the tail comes again
      setLost(false)
    }
    source.onerror = () => setLost(true)
    source.addEventListener('end', () => {
      source.close()
      waiting.push('The instance has ended.')
    })
    source.addEventListener('line', e => waiting.push(lineOf((e as MessageEvent<string>).data)))
    const flush = setInterval(() => {
      if (waiting.length) setLines(old => [...old, ...waiting.splice(0)].slice(-keptLines))
    }, 200)
    return () => {
      source.close()
      clearInterval(flush)
    }
  }, [id, paused])
  useEffect(() => {
    if (bottom.current && box.current) box.current.scrollTop = box.current.scrollHeight
  }, [lines])
  return (
    <section class="panel" aria-labelledby="logs-title">
      <div class="panel-head">
        <h2 id="logs-title">Logs</h2>
        <div class="tools">
          {lost && <span class="stale">Not connected; trying again</span>}
          <label><span class="hidden">Instance</span><select value={id} onChange={e => choose(e.currentTarget.value)} data-testid="log-instance">{instances.map(i => <option key={i.id} value={i.id}>{i.id}</option>)}</select></label>
          <button type="button" class="small" aria-pressed={paused} onClick={() => pause(!paused)}>{paused ? 'Follow' : 'Pause'}</button>
        </div>
      </div>
      <pre class="log" ref={box} tabIndex={0} role="log" aria-live="off" aria-label={`Log of ${id}`} data-testid="log"
        onScroll={e => (bottom.current = e.currentTarget.scrollHeight - e.currentTarget.scrollTop - e.currentTarget.clientHeight < 24)}>
        {lines.length === 0 ? <span class="quiet">No lines yet.</span> : lines.map((l, i) => <span key={i} class={/\b(ERROR|FATAL|panic:)/.test(l) ? 'bad' : /\bWARN/.test(l) ? 'warn' : ''}>{l}{'\n'}</span>)}
      </pre>
    </section>
  )
}

// A line comes as text, as a JSON string, or as an object that holds it.
function lineOf(data: string): string {
  try {
    const v: unknown = JSON.parse(data)
    if (typeof v === 'string') return v
    if (v && typeof v === 'object') {
      const o = v as Record<string, unknown>
      for (const k of ['line', 'text', 'message']) if (typeof o[k] === 'string') return o[k]
    }
  } catch {
    // plain text
  }
  return data
}
