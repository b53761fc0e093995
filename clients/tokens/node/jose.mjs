// Makes tokens of every algorithm with jose, and prints them with the keys that check them.

import { randomBytes } from 'node:crypto';
import { exportJWK, generateKeyPair, importJWK, SignJWT, UnsecuredJWT } from 'jose';

const { ISSUER: issuer, AUDIENCE: audience, ALGORITHMS: algorithms } = process.env;
const elsewhere = 'https://other.example.com';

/** A secret, or a private key. Its public part is what an issuer publishes. */
async function makeKey(alg) {
  if (!alg.startsWith('HS')) {
    const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
    return { key: privateKey, jwk: { ...(await exportJWK(publicKey)), use: 'sig', alg, kid: alg } };
  }
  const secret = randomBytes(64).toString('hex');
  return { key: new TextEncoder().encode(secret), secret };
}

async function makeToken(alg, key, { kid, aud = audience, expires = '10m' } = {}) {
  // docs: begin
  const token = await new SignJWT({ account_id: 7 })
    .setProtectedHeader({ alg, kid })
    .setIssuer(issuer)
    .setAudience(aud)
    .setSubject('42')
    .setIssuedAt()
    .setExpirationTime(expires)
    .sign(key);
  // docs: end
  return token;
}

const secrets = {};
const keys = [];
const tokens = [];
const cannot = {};
for (const alg of algorithms.split(' ')) {
  const kid = alg;
  try {
    const { key, secret, jwk } = await makeKey(alg);
    const another = await makeKey(alg);
    const made = {
      plain: await makeToken(alg, key),
      named: await makeToken(alg, key, { kid, aud: [elsewhere, audience] }),
      expired: await makeToken(alg, key, { kid, expires: new Date(Date.now() - 60_000) }),
      audience: await makeToken(alg, key, { kid, aud: elsewhere }),
      key: await makeToken(alg, another.key, { kid }),
    };
    if (alg === 'RS256' || alg === 'PS256') {
      const { alg: _, ...same } = await exportJWK(key);
      made.algorithm = await makeToken('RS512', await importJWK(same, 'RS512'), { kid });
    }
    if (alg === 'ES256') {
      const unsigned = new UnsecuredJWT().setIssuer(issuer).setAudience(audience).setSubject('42');
      made.none = unsigned.setExpirationTime('10m').encode();
    }
    for (const [name, token] of Object.entries(made)) tokens.push({ alg, case: name, token });
    if (secret) secrets[alg] = secret;
    else keys.push(jwk);
  } catch (error) {
    cannot[alg] = `${error.name}: ${error.message}`;
  }
}
process.stdout.write(JSON.stringify({ secrets, jwks: { keys }, tokens, cannot }));
