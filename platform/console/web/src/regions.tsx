// Regions: whose users are served elsewhere, how far that is, and how the ways there do; which are proposed to be evacuated, and
// the buttons that decide it. Shown only where there are several.

import type { Proposal, RegionsWatch, RegionView, Regions as All } from './types'
import { act, get, send, sentence } from './api'
import { Ago, type Ask, Mark, useRead } from './ui'
import { count, percent, rate, when, words } from './format'

const at = '/api/v1/edge/regions/'

export function Regions({ all, now, ask }: { all: All; now: number; ask: (a: Ask) => void }) {
  const watch = useRead<RegionsWatch>('/api/v1/regions', 10_000).data
  const v = all.visitors
  const judged = !!watch?.regions.some(w => w.good !== undefined)
  return (
    <section class="panel" aria-labelledby="regions-title" data-testid="edge-regions">
      <div class="panel-head"><h2 id="regions-title">Regions</h2><span class="quiet">as this edge, in {all.region}, sees them</span></div>
      {all.problem && <p class="problem" role="alert">{all.problem}</p>}
      {watch?.problem && <p class="problem" role="alert">{sentence(watch.problem)}</p>}
      {watch?.weights?.failing && <p class="problem" role="alert">Weights are not accepted by {watch.weights.url}: {watch.weights.failing}</p>}
      {all.regions.map(r => isOpen(r) && <Proposed key={r.region} region={r.region} p={r.proposal!} now={now} ask={ask} />)}
      <table role="table" class="cards">
        <caption class="hidden">Regions, and what share of their users is served elsewhere</caption>
        <thead><tr><th scope="col">Region</th><th scope="col">State</th><th scope="col" class="num">Users elsewhere</th><th scope="col">To</th><th scope="col" class="num">Sent there, /s</th><th scope="col" class="num">Failed</th>{judged && <th scope="col" class="num">Good answers, /s</th>}<th scope="col">Why</th></tr></thead>
        <tbody role="rowgroup">{all.regions.map(r => <Row key={r.region} r={r} judged={judged} watch={watch?.regions.find(w => w.region === r.region)} />)}</tbody>
      </table>
      <p class="under quiet">{v.inFlight.toLocaleString('en')}{v.headroom > 0 && ` of ${v.headroom.toLocaleString('en')}`} requests of other regions in flight here; {count(v.refused, 'request')} refused for want of room, {count(all.kept, 'request')} that {all.kept === 1 ? 'was' : 'were'} to go elsewhere served here. Move users with <code>roadbed region evacuate REGION</code>, and back with <code>roadbed region restore REGION</code>.</p>
    </section>
  )
}

function Row({ r, judged, watch }: { r: RegionView; judged: boolean; watch?: RegionsWatch['regions'][number] }) {
  const d = r.document
  const away = r.moved > 0 || r.goal > 0
  const silent = r.tunnel?.shut
  const why = r.refused || r.paused || (silent ? 'it does not answer, and is tried every 2 s' : d.reason) || decided(r.proposal)
  return (
    <tr role="row" data-testid={`region-${r.region}`}>
      <th role="rowheader" scope="row"><Mark kind={r.refused || silent ? 'danger' : r.paused || away ? 'warning' : 'normal'} /> {r.region}{r.own && <span class="quiet"> here</span>}</th>
      <td role="cell" data-label="State">{d.state ? words(d.state) : 'refused'}</td>
      <td role="cell" data-label="Users elsewhere" class="num">{away ? <span class="warn">{percent(r.moved / 100)}{r.moved !== r.goal && ` of ${percent(r.goal / 100)}`}</span> : '–'}</td>
      <td role="cell" data-label="To">{(away && shares(d.to)) || <span class="quiet">–</span>}</td>
      <td role="cell" data-label="Sent there, /s" class="num">{r.tunnel ? (r.tunnel.last / 10).toLocaleString('en', { maximumFractionDigits: 1 }) : '–'}</td>
      <td role="cell" data-label="Failed" class="num">{r.tunnel?.last ? <span class={r.tunnel.failed ? 'bad' : ''}>{percent(r.tunnel.failed / r.tunnel.last)}</span> : '–'}</td>
      {judged && <td role="cell" data-label="Good answers, /s" class="num" title={watch?.silent && `nothing would be proposed: ${watch.silent}`}>{watch?.good === undefined ? '–' : rate(watch.good)}{watch?.expected !== undefined && <span class="quiet"> of {rate(watch.expected)}</span>}</td>}
      <td role="cell" data-label="Why">{why ? <span class={r.refused || r.paused || silent ? 'bad' : ''}>{r.paused && !r.refused && 'stands still: '}{why}</span> : <span class="quiet">–</span>}</td>
    </tr>
  )
}

function shares(to: Record<string, number> | undefined): string {
  return Object.entries(to ?? {}).sort((a, b) => b[1] - a[1]).map(([name, share]) => `${name} ${percent(share / 100)}`).join(', ')
}

// Whether somebody is to decide whether a region is evacuated.
function isOpen(r: RegionView): boolean {
  return r.proposal?.state === 'OPEN' && r.document.state === 'SERVING'
}

// What has become of a proposal, and keeps another one from being made.
function decided(p: Proposal | undefined): string {
  switch (p?.state) {
    case 'REFUSED': return 'evacuating it was refused; not proposed again until it has been well'
    case 'EXPIRED': return 'nobody said whether to evacuate it; not proposed again until it has been well'
    case 'ACTED': return 'it was evacuated by itself'
  }
  return ''
}

function Proposed({ region, p, now, ask }: { region: string; p: Proposal; now: number; ask: (a: Ask) => void }) {
  const why = `${rate(p.good)} good answers a second where ${p.baseline} lets expect ${rate(p.expected)}`
  return (
    <p class="notice danger" data-testid={`proposal-${region}`}><Mark kind="danger" size={12} /><span><b role="alert">{region} should be evacuated.</b> <span>It gave {why}, <Ago at={when(p.at)} now={now} />. Its users would go to {shares(p.to)}.</span></span>
      <span class="tools">
        <button type="button" class="small" data-testid={`refuse-${region}`} onClick={() => ask({
          title: `Leave ${region} as it is?`, verb: 'Refuse', done: `${region} stays as it is.`,
          text: <p>Nothing is proposed for it until it has been well. What it does meanwhile is learned as what to expect of it.</p>,
          do: async why => {
            const open = await openProposal(region)
            await act('POST', '/config/v1/properties', why, { key: `edge.regions.proposal.${region}`, value: JSON.stringify({ ...open, state: 'REFUSED' }), sourceOfUpdate: 'ui' })
          },
        })}>Refuse</button>
        <button type="button" class="small primary danger" data-testid={`approve-${region}`} onClick={() => ask(approval(region, p))}>Approve</button>
      </span></p>
  )
}

// What is proposed for a region now: it may have been taken back while somebody thought about it.
async function openProposal(region: string): Promise<Proposal> {
  const r = await get<RegionView>(at + encodeURIComponent(region))
  if (!isOpen(r)) throw new Error(`Nothing is proposed for ${region} any more; nothing is changed.`)
  return r.proposal!
}

// What is asked before a region is evacuated as it is proposed.
function approval(region: string, p: Proposal): Ask {
  const ramp = { seconds: 60 }
  return {
    title: `Evacuate ${region}?`, dangerous: true, verb: 'Evacuate', done: `The users of ${region} are on their way.`,
    text: <p>All of its users go to {shares(p.to)}, more and more of them. That stands still if requests fail there. Back with <code>roadbed region restore {region}</code>.</p>,
    fields: <label class="field"><span>Over how long, s <small>0: at once</small></span><input type="number" min={0} max={86_400} step={1} defaultValue={ramp.seconds} required onInput={e => (ramp.seconds = e.currentTarget.valueAsNumber)} data-testid="ramp" /></label>,
    do: why => evacuate(region, ramp.seconds, why),
  }
}

// Sends the users of a region where it is proposed, as roadbed region approve does.
async function evacuate(region: string, rampSeconds: number, why: string): Promise<string | undefined> {
  const { to } = await openProposal(region)
  const change = { state: 'DRAINING', to, rampSeconds, reason: why }
  const made = await send<{ property: string; text: string; notes?: string[] }>('POST', `${at}${encodeURIComponent(region)}/check`, why, change)
  await act('POST', '/config/v1/properties', why, { key: made!.property, value: made!.text, sourceOfUpdate: 'ui' })
  return made!.notes?.length ? `The users of ${region} are on their way. Mind: ${made!.notes.join('; ')}.` : undefined
}
