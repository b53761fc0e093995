"""Makes tokens of every algorithm with PyJWT, and prints them with the keys that check them."""

import json
import os
import secrets
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER, AUDIENCE, ALGORITHMS = os.environ["ISSUER"], os.environ["AUDIENCE"], os.environ["ALGORITHMS"].split()
CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1}


def make_key(algorithm):
    """A secret, or a private key."""
    if algorithm.startswith("HS"):
        return secrets.token_hex(64)
    if algorithm in CURVES:
        return ec.generate_private_key(CURVES[algorithm]())
    return ed25519.Ed25519PrivateKey.generate() if algorithm == "EdDSA" else rsa.generate_private_key(65537, 2048)


def plain_token(algorithm, key):
    # docs: begin
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "42", "account_id": 7, "iat": now, "exp": now + 600}
    token = jwt.encode(claims, key, algorithm)
    # docs: end
    return token


def make_token(algorithm, key, kid, **other):
    """A token with a kid, and claims that replace the usual ones."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "42", "account_id": 7, "iat": now, "exp": now + 600}
    return jwt.encode({**claims, **other}, key, algorithm, headers={"kid": kid})


secret_keys, published, tokens, cannot = {}, [], [], {}
for name in ALGORITHMS:
    try:
        key, another = make_key(name), make_key(name)
        many = {"aud": ["https://other.example.com", AUDIENCE], "nbf": int(time.time())}
        made = {
            "plain": plain_token(name, key),
            "named": make_token(name, key, name, **many),
            "expired": make_token(name, key, name, exp=int(time.time()) - 60),
            "audience": make_token(name, key, name, aud="https://other.example.com"),
            "key": make_token(name, another, name),
        }
        if name in ("RS256", "PS256"):
            made["algorithm"] = make_token("RS512", key, name)
        if name == "ES256":
            made["none"] = make_token("none", None, name)
    except (NotImplementedError, jwt.PyJWTError, ValueError) as error:
        cannot[name] = f"{type(error).__name__}: {error}"
        continue
    tokens += [{"alg": name, "case": case, "token": token} for case, token in made.items()]
    if name.startswith("HS"):
        secret_keys[name] = key
    else:
        jwk = jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), as_dict=True)
        published.append({**jwk, "alg": name, "kid": name})

print(json.dumps({"secrets": secret_keys, "jwks": {"keys": published}, "tokens": tokens, "cannot": cannot}))
