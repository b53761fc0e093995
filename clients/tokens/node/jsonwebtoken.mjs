// Makes tokens of every algorithm with jsonwebtoken, and prints them with the keys that check them.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import jwt from 'jsonwebtoken';

const { ISSUER: issuer, AUDIENCE: audience, ALGORITHMS: algorithms } = process.env;
const elsewhere = 'https://other.example.com';
const curves = { ES256: 'P-256', ES384: 'P-384' };

/** A secret, or a private key. Its public part is what an issuer publishes. */
function makeKey(algorithm) {
  if (algorithm.startsWith('HS')) {
    const secret = randomBytes(64).toString('hex');
    return { key: secret, secret };
  }
  const rsa = () => generateKeyPairSync('rsa', { modulusLength: 2048 });
  const curve = curves[algorithm];
  const ec = () => generateKeyPairSync('ec', { namedCurve: curve });
  const { privateKey, publicKey } = algorithm === 'EdDSA' ? generateKeyPairSync('ed25519') : curve ? ec() : rsa();
  return { key: privateKey, pem: publicKey.export({ type: 'spki', format: 'pem' }) };
}

function makeToken(algorithm, key, { keyid, aud = audience, expiresIn = '10m' } = {}) {
  const options = keyid ? { keyid } : {};
  // docs: begin
  const token = jwt.sign({ account_id: 7 }, key, {
    algorithm,
    issuer,
    audience: aud,
    subject: '42',
    expiresIn,
    ...options,
  });
  // docs: end
  return token;
}

const secrets = {};
const pems = {};
const tokens = [];
const cannot = {};
for (const alg of algorithms.split(' ')) {
  const keyid = alg;
  try {
    const { key, secret, pem } = makeKey(alg);
    const another = makeKey(alg);
    const made = {
      plain: makeToken(alg, key),
      named: makeToken(alg, key, { keyid, aud: [elsewhere, audience] }),
      expired: makeToken(alg, key, { keyid, expiresIn: -60 }),
      audience: makeToken(alg, key, { keyid, aud: elsewhere }),
      key: makeToken(alg, another.key, { keyid }),
    };
    if (alg === 'RS256' || alg === 'PS256') made.algorithm = makeToken('RS512', key, { keyid });
    if (alg === 'ES256') made.none = makeToken('none', null, { keyid });
    for (const [name, token] of Object.entries(made)) tokens.push({ alg, case: name, token });
    if (secret) secrets[alg] = secret;
    else pems[alg] = pem;
  } catch (error) {
    cannot[alg] = `${error.name}: ${error.message}`;
  }
}
process.stdout.write(JSON.stringify({ secrets, pems, tokens, cannot }));
