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

function plainToken(algorithm, key) {
  // docs: begin
  const options = { algorithm, issuer, audience, subject: '42', expiresIn: '10m' };
  const token = jwt.sign({ account_id: 7 }, key, options);
  // docs: end
  return token;
}

/** A token with a kid, and options that replace the usual ones. */
function makeToken(algorithm, key, other) {
  const options = { algorithm, issuer, audience, subject: '42', expiresIn: '10m' };
  return jwt.sign({ account_id: 7 }, key, { ...options, ...other });
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
      plain: plainToken(alg, key),
      named: makeToken(alg, key, { keyid, audience: [elsewhere, audience] }),
      expired: makeToken(alg, key, { keyid, expiresIn: -60 }),
      audience: makeToken(alg, key, { keyid, audience: elsewhere }),
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
