// Regions: whose users are served elsewhere, how far that is, and how the ways there do. Shown only where there are several.

import type { RegionView, Regions as All } from './types'
import { Mark } from './ui'
import { count, percent, words } from './format'

export function Regions({ all }: { all: All }) {
  if (all.regions.length < 2) return null
  const v = all.visitors
  return (
    <section class="panel" aria-labelledby="regions-title" data-testid="edge-regions">
      <div class="panel-head"><h2 id="regions-title">Regions</h2><span class="quiet">as this edge, in {all.region}, sees them</span></div>
      {all.problem && <p class="problem" role="alert">{all.problem}</p>}
      <table role="table" class="cards">
        <caption class="hidden">Regions, and what share of their users is served elsewhere</caption>
        <thead><tr><th scope="col">Region</th><th scope="col">State</th><th scope="col" class="num">Users elsewhere</th><th scope="col">To</th><th scope="col" class="num">Sent there, /s</th><th scope="col" class="num">Failed</th><th scope="col">Why</th></tr></thead>
        <tbody role="rowgroup">{all.regions.map(r => <Row key={r.region} r={r} />)}</tbody>
      </table>
      <p class="under quiet">{v.inFlight.toLocaleString('en')}{v.headroom > 0 && ` of ${v.headroom.toLocaleString('en')}`} requests of other regions in flight here; {count(v.refused, 'request')} refused for want of room, {count(all.kept, 'request')} that {all.kept === 1 ? 'was' : 'were'} to go elsewhere served here. Move users with <code>roadbed region evacuate REGION</code>, and back with <code>roadbed region restore REGION</code>.</p>
    </section>
  )
}

function Row({ r }: { r: RegionView }) {
  const d = r.document
  const away = r.moved > 0 || r.goal > 0
  const to = Object.entries(d.to ?? {}).sort((a, b) => b[1] - a[1])
  const silent = r.tunnel?.shut
  const why = r.refused || r.paused || (silent ? 'it does not answer, and is tried every 2 s' : d.reason)
  return (
    <tr role="row" data-testid={`region-${r.region}`}>
      <th role="rowheader" scope="row"><Mark kind={r.refused || silent ? 'danger' : r.paused || away ? 'warning' : 'normal'} /> {r.region}{r.own && <span class="quiet"> here</span>}</th>
      <td role="cell" data-label="State">{d.state ? words(d.state) : 'refused'}</td>
      <td role="cell" data-label="Users elsewhere" class="num">{away ? <span class="warn">{percent(r.moved / 100)}{r.moved !== r.goal && ` of ${percent(r.goal / 100)}`}</span> : '–'}</td>
      <td role="cell" data-label="To">{away && to.length ? to.map(([name, share]) => `${name} ${percent(share / 100)}`).join(', ') : <span class="quiet">–</span>}</td>
      <td role="cell" data-label="Sent there, /s" class="num">{r.tunnel ? (r.tunnel.last / 10).toLocaleString('en', { maximumFractionDigits: 1 }) : '–'}</td>
      <td role="cell" data-label="Failed" class="num">{r.tunnel?.last ? <span class={r.tunnel.failed ? 'bad' : ''}>{percent(r.tunnel.failed / r.tunnel.last)}</span> : '–'}</td>
      <td role="cell" data-label="Why">{why ? <span class={r.refused || r.paused || silent ? 'bad' : ''}>{r.paused && !r.refused && 'stands still: '}{why}</span> : <span class="quiet">–</span>}</td>
    </tr>
  )
}
