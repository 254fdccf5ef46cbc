// An issuer of OpenID Connect by the package oidc-provider: node oidc.mjs PORT CALLBACK AFTER-LOGOUT. Everybody may log in as
// whoever they say.
import { Provider } from 'oidc-provider'

const [, , port, callback, after] = process.argv

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [{
    client_id: 'shop',
    client_secret: 'a&secret of the shop',
    grant_types: ['authorization_code', 'refresh_token'],
    redirect_uris: [callback],
    post_logout_redirect_uris: [after]
  }],
  pkce: { required: () => true },
  claims: { openid: ['sub'], email: ['email'], profile: ['preferred_username', 'plan'] },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: `${id}@example.com`, preferred_username: id, plan: 'gold' })
  }),
  cookies: { keys: ['interop'] },
  ttl: { AccessToken: 4, IdToken: 4, Interaction: 600, Session: 600, Grant: 600, RefreshToken: 600 },
  rotateRefreshToken: true
})
provider.listen(Number(port), '127.0.0.1')
