// The frame around the pages: who we are, where one can go, whether what is shown is fresh.

import { render } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import 'uplot/style'
import './style.css'
import type { Overview } from './types'
import { connect, type Live, useLive } from './store'
import { count, span, when } from './format'
import { sentence } from './api'
import { type Ask, Dialog, Mark, useMedia } from './ui'
import { OverviewPage } from './overview'
import { ServicesPage } from './services'
import { ServicePage } from './service'
import { ChangesPage } from './changes'
import { FaultsPage } from './faults'
import { RegistryPage } from './registry'
import { EdgePage } from './edge'
import { ConfigPage, Key } from './config'
import { PastPage } from './past'
import { PropertyPage } from './property'
import { RolloutPage, RolloutsPage, titleOf, underWay } from './rollouts'

interface Route { page: 'overview' | 'services' | 'service' | 'registry' | 'config' | 'property' | 'rollouts' | 'rollout' | 'past' | 'changes' | 'faults' | 'edge'; name: string }

function routeOf(hash: string): Route {
  const [page, name, more] = hash.replace(/^#\/?/, '').split('/').map(decode)
  if (page === 'config' && name === 'key' && more) return { page: 'property', name: more }
  if (page === 'config' && name === 'past') return { page: 'past', name: '' }
  if (page === 'config' && name === 'rollouts') return more ? { page: 'rollout', name: more } : { page: 'rollouts', name: '' }
  if (page === 'services' && name) return { page: 'service', name }
  if (page === 'services' || page === 'registry' || page === 'config' || page === 'changes' || page === 'faults' || page === 'edge') return { page, name: '' }
  return { page: 'overview', name: '' }
}

function decode(s: string): string {
  try {
    return decodeURIComponent(s)
  } catch {
    return s
  }
}

// Pages that have no place of their own in the navigation, and where they belong.
const under: Record<string, string> = { service: 'services', property: 'config', rollouts: 'config', rollout: 'rollouts', past: 'config' }

const pages = [['overview', 'Overview', '#/'], ['services', 'Services', '#/services'], ['registry', 'Registry', '#/registry'], ['edge', 'Edge', '#/edge'], ['config', 'Config', '#/config'], ['changes', 'Changes', '#/changes'], ['faults', 'Faults', '#/faults']] as const

type Theme = 'system' | 'light' | 'dark'

function remembered(): Theme {
  try {
    const t = localStorage.getItem('theme')
    return t === 'light' || t === 'dark' ? t : 'system'
  } catch {
    return 'system' // storage is forbidden here
  }
}

function App() {
  const live = useLive()
  const [route, go] = useState(() => routeOf(location.hash))
  const [theme, setTheme] = useState<Theme>(remembered)
  const dark = useMedia('(prefers-color-scheme: dark)')
  const [ask, setAsk] = useState<Ask>()
  const [said, say] = useState('')
  const [selected, select] = useState<string>()
  const main = useRef<HTMLElement>(null)

  useEffect(() => {
    const f = () => {
      go(routeOf(location.hash))
      window.scrollTo(0, 0)
      main.current?.querySelector<HTMLElement>('h1')?.focus({ preventScroll: true })
    }
    addEventListener('hashchange', f)
    return () => removeEventListener('hashchange', f)
  }, [])
  useEffect(() => {
    document.documentElement.dataset.theme = theme
    try {
      localStorage.setItem('theme', theme)
    } catch {
      // it holds for this visit
    }
  }, [theme])
  useEffect(() => {
    if (!said) return
    const t = setTimeout(() => say(''), 6_000)
    return () => clearTimeout(t)
  }, [said])

  const rollout = route.page === 'rollout' ? live.model?.rollouts?.find(r => r.id === route.name) : undefined
  const up = route.page === 'rollout' ? ['', 'Roll-outs', '#/config/rollouts'] : route.name ? pages.find(p => p[0] === under[route.page]) : undefined
  const title = route.page === 'config' || route.page === 'rollouts' || route.page === 'past' ? 'Configuration' : rollout ? titleOf(rollout) : route.name || pages.find(p => p[0] === route.page)![1]
  const at = under[under[route.page]] ?? under[route.page] ?? route.page
  const running = (live.model?.rollouts ?? []).filter(underWay).length
  useEffect(() => {
    document.title = `${title} · roadbed`
    document.querySelector('.top nav [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' })
  }, [title])
  const shade = theme === 'system' ? (dark ? 'dark' : 'light') : theme
  document.documentElement.dataset.theme = theme // before children read colours

  const { model, overview } = live
  return (
    <>
      <a class="skip" href="#main" onClick={e => { e.preventDefault(); main.current?.querySelector<HTMLElement>('h1')?.focus() }}>Skip to the content</a>
      <header class="top">
        <a class="brand" href="#/"><Logo /><span>roadbed</span></a>
        <nav aria-label="Pages">
          <ul>{pages.map(([page, text, href]) => (
            <li key={page}><a href={href} aria-current={at === page ? 'page' : undefined} data-testid={`nav-${page}`}>{text}{page === 'faults' && model && model.faults.length > 0 && <span class="badge">{model.faults.length}<span class="hidden"> active</span></span>}{page === 'config' && running > 0 && <span class="badge">{running}<span class="hidden"> roll-outs under way</span></span>}</a></li>
          ))}</ul>
        </nav>
        <div class="top-end">
          <span class={`pulse ${live.lost ? 'danger' : model ? 'normal' : ''}`} data-testid="connection"><Mark kind={live.lost ? 'danger' : 'normal'} size={8} />{live.lost ? 'Lost' : model ? 'Live' : 'Connecting'}</span>
          <label class="theme"><span class="hidden">Colours</span>
            <select value={theme} onChange={e => setTheme(e.currentTarget.value as Theme)} data-testid="theme"><option value="system">System</option><option value="light">Light</option><option value="dark">Dark</option></select>
          </label>
        </div>
      </header>
      <Notices live={live} overview={overview} />
      <main ref={main} id="main">
        <h1 tabIndex={-1} class={route.page === 'overview' ? 'hidden' : ''}>{up && <a href={up[2]} class="up">{up[1]}</a>}{route.page === 'property' || route.page === 'rollout' ? <Key of={title} /> : title}</h1>
        {!model && <p class="calm wait">{live.refused ? 'This page connects by itself when it can.' : live.lost ? 'The platform does not answer. This page connects by itself when it does.' : 'Reading the platform…'}</p>}
        {model && route.page === 'overview' && <OverviewPage live={live} model={model} theme={shade} selected={selected} select={select} />}
        {model && route.page === 'services' && <ServicesPage model={model} ask={setAsk} />}
        {model && route.page === 'service' && <ServicePage key={route.name} name={route.name} model={model} ask={setAsk} theme={shade} />}
        {model && route.page === 'registry' && <RegistryPage model={model} node={overview?.node ?? undefined} ask={setAsk} />}
        {model && route.page === 'edge' && <EdgePage model={model} ask={setAsk} />}
        {model && route.page === 'config' && <ConfigPage model={model} ask={setAsk} />}
        {model && route.page === 'property' && <PropertyPage key={route.name} name={route.name} model={model} ask={setAsk} />}
        {model && route.page === 'past' && <PastPage model={model} ask={setAsk} />}
        {model && route.page === 'rollouts' && <RolloutsPage model={model} ask={setAsk} />}
        {model && route.page === 'rollout' && <RolloutPage key={route.name} id={route.name} model={model} ask={setAsk} />}
        {model && route.page === 'changes' && <ChangesPage model={model} />}
        {model && route.page === 'faults' && <FaultsPage model={model} ask={setAsk} available={overview?.faults !== undefined} />}
      </main>
      <footer><span>roadbed{overview?.platform?.version ? ` ${overview.platform.version}` : ''}</span><a href="/api/v1/openapi.json">API</a><a href="/licences.txt">Licences</a></footer>
      <p class="hidden" role="status" aria-live="polite">{live.said}</p>
      <div class="toast" role="status" aria-live="polite">{said && <p data-testid="toast"><Mark kind="normal" /> {said}</p>}</div>
      {ask && <Dialog key={ask.title} ask={ask} next={setAsk} close={() => setAsk(undefined)} say={say} />}
    </>
  )
}

const absent = 'this platform does not run it'

// Says in words when what is shown is not fresh, and which of it.
function Notices({ live, overview }: { live: Live; overview: Overview | undefined }) {
  const now = when(overview?.time) ?? 0
  const rooms = new Map<string, { error: string; since?: number; parts: string[] }>()
  for (const u of overview?.unreachable ?? []) {
    if (u.error === absent) continue
    const r = rooms.get(u.room) ?? { error: u.error, parts: [] }
    r.parts.push(u.part)
    const since = when(u.since)
    if (since) r.since = Math.min(since, r.since ?? Infinity)
    rooms.set(u.room, r)
  }
  const left = Math.max(0, ...Object.values(overview?.truncated ?? {}))
  const lost = live.lost || live.refused !== ''
  if (!lost && rooms.size === 0 && left === 0) return null
  return (
    <section class="notices" aria-label="Notices" data-testid="notices">
      {lost && (
        <p class="notice danger" data-testid="lost"><Mark kind="danger" size={12} /><span><b role="alert">{live.refused || 'Connection lost.'}</b> <span>{live.at ? <>Last data {span(Date.now() - live.at)} old.</> : 'There is no data yet.'} Trying again by itself.</span></span></p>
      )}
      {!lost && left > 0 && (
        <p class="notice" data-testid="truncated"><Mark kind="warning" size={12} /><span><b role="alert">{count(left, 'instance')} not shown.</b> <span>There are too many for this page, so it lists the first only. The counts of services include all; <code>roadbed instance list</code> lists them all.</span></span></p>
      )}
      {!lost && [...rooms].map(([name, r]) => (
        <p class="notice" key={name} data-testid={`unreachable-${name}`}><Mark kind="warning" size={12} /><span><b role="alert">{name === 'platform' ? 'The health report' : sentence(name).slice(0, -1)} does not answer:</b> {sentence(r.error)} <span>{r.since ? `What is shown of ${r.parts.join(' and ')} is ${span(now - r.since)} old.` : `There is no data on ${r.parts.join(' and ')} yet.`}</span></span></p>
      ))}
    </section>
  )
}

function Logo() {
  return (
    <svg width="26" height="26" viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="8" class="logo-ground" /><path d="M13 7 8 25M19 7l5 18" class="logo-rail" /><path d="M16 8v3m0 4v3m0 4v3" class="logo-line" /></svg>
  )
}

connect()
render(<App />, document.getElementById('app')!)
