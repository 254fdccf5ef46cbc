// The apps that the edge asks, their instances with what decides which of them is asked, and the connections to them.

import type { Origin, OriginInstance } from './types'
import { stateOf, zoneLetter } from './model'
import { Empty, Mark, Status } from './ui'
import { percent, seconds, span, when, words } from './format'

export function Origins({ origins, now }: { origins: Origin[]; now: number }) {
  return (
    <section class="panel" aria-labelledby="origins-title" data-testid="edge-origins">
      <div class="panel-head"><h2 id="origins-title">Origins</h2><span class="quiet">of two instances the one with the lower score is asked</span></div>
      {origins.length === 0
        ? <Empty title="No app was asked for yet.">Ask for one through the edge, as with <code>curl localhost:7000/hello/</code>. Apps in the registry are reachable under their names.</Empty>
        : (
          <table role="table" class="cards origins">
            <caption class="hidden">Instances that requests are sent to, by app</caption>
            <thead><tr><th scope="col" class="c-id">Instance</th><th scope="col" class="c-zone">Zone</th><th scope="col" class="c-status">Status</th><th scope="col" class="num">Score, ms</th><th scope="col" class="num">In flight</th><th scope="col" class="num" title="Of what it wants, as it reports; – if it reports nothing">Utilization</th><th scope="col" class="num">Errors</th><th scope="col" class="num" title="HTTP/1.1 connections that wait for a request">Idle conns</th><th scope="col" class="num">Requests</th><th scope="col" class="c-addr">Address</th></tr></thead>
            {origins.map(o => (
              <tbody role="rowgroup" key={o.app} data-testid={`origin-${o.app}`}>
                <tr role="row" class="app-row">
                  <th role="rowheader" scope="rowgroup" colSpan={10}><div>
                    <span class="app-name"><Mark kind={o.breaker === 'OPEN' ? 'danger' : o.breaker !== 'CLOSED' || o.panic || o.errorPercent > 0 ? 'warning' : 'normal'} /><a href={`#/services/${encodeURIComponent(o.app)}`}>{o.app}</a></span>
                    <span class="numbers">
                      <span>breaker <b class={o.breaker === 'CLOSED' ? '' : 'warn'}>{words(o.breaker)}</b></span>
                      <span><b>{o.inFlight.toLocaleString('en')}</b> in flight{o.limit > 0 && ` of ${o.limit.toLocaleString('en')}`}</span>
                      <span><b>{seconds(o.p50Seconds)}</b> p50, <b>{seconds(o.p99Seconds)}</b> p99</span>
                      <span><b class={o.errorPercent ? 'bad' : ''}>{o.errorPercent}{'\u00a0'}%</b> errors</span>
                      <span title="In 10 s, of those that the budget allows"><b>{o.retries.used.toLocaleString('en')}</b> retries of {Math.floor(o.retries.allowed).toLocaleString('en')}</span>
                    </span>
                    {o.panic && <span class="warn">too few instances are healthy, so all are tried</span>}
                  </div></th>
                </tr>
                {o.instances.map(i => <Row key={i.id || i.address} i={i} now={now} worst={Math.max(...o.instances.map(i => i.scoreSeconds))} />)}
                {o.instances.length === 0 && <tr role="row"><td role="cell" colSpan={10} class="quiet">No instance of it is known. <code>roadbed instance list --service {o.app}</code></td></tr>}
              </tbody>
            ))}
          </table>
        )}
    </section>
  )
}

function Row({ i, now, worst }: { i: OriginInstance; now: number; worst: number }) {
  const [state, status] = i.status ? stateOf(i.status) : ['unknown' as const, 'not listed']
  const until = when(i.ejectedUntil) ?? when(i.refusedUntil)
  return (
    <tr role="row" data-testid={`origin-instance-${i.id || i.address}`}>
      <th role="rowheader" scope="row" class="name">{i.id || 'gone'}</th>
      <td role="cell" data-label="Zone">{i.zone ? <><span class="zone-letter" aria-hidden="true">{zoneLetter(i.zone)}</span>{i.zone}</> : '–'}</td>
      <td role="cell" data-label="Status" title={i.why}>{i.eligible || state !== 'up' ? <Status of={{ state, status }} /> : <span class="override">{i.ejectedUntil ? 'ejected' : 'not asked'}{until && until > now ? ` for ${span(until - now)}` : ''}</span>}</td>
      <td role="cell" data-label="Score, ms" class="num"><span class="score">{i.scoreSeconds ? (i.scoreSeconds * 1e3).toLocaleString('en', { maximumFractionDigits: 1, minimumFractionDigits: 1 }) : '–'}<svg width="36" height="5" viewBox="0 0 36 5" aria-hidden="true"><rect width="36" height="5" rx="2.5" class="ground" /><rect width={(36 * (worst ? i.scoreSeconds / worst : 0)).toFixed(1)} height="5" rx="2.5" class="part" /></svg></span></td>
      <td role="cell" data-label="In flight" class="num">{i.active.toLocaleString('en')}</td>
      <td role="cell" data-label="Utilization" class="num">{i.status && i.utilization !== 1 ? percent(i.utilization) : '–'}</td>
      <td role="cell" data-label="Errors" class="num"><span class={i.errorRate > 0.05 ? 'bad' : ''}>{percent(i.errorRate)}</span></td>
      <td role="cell" data-label="Idle conns" class="num" title={`${i.inUse} in use`}>{i.idle.toLocaleString('en')}</td>
      <td role="cell" data-label="Requests" class="num" title={`${i.failures.toLocaleString('en')} failed`}>{i.requests.toLocaleString('en')}</td>
      <td role="cell" data-label="Address" class="name">{i.address}</td>
    </tr>
  )
}
