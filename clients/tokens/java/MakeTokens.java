// Makes tokens of every algorithm with Nimbus JOSE + JWT, and prints them with the keys that check them.

import com.nimbusds.jose.JOSEException;
import com.nimbusds.jose.JWSAlgorithm;
import com.nimbusds.jose.JWSHeader;
import com.nimbusds.jose.JWSSigner;
import com.nimbusds.jose.crypto.ECDSASigner;
import com.nimbusds.jose.crypto.Ed25519Signer;
import com.nimbusds.jose.crypto.MACSigner;
import com.nimbusds.jose.crypto.RSASSASigner;
import com.nimbusds.jose.jwk.Curve;
import com.nimbusds.jose.jwk.ECKey;
import com.nimbusds.jose.jwk.JWK;
import com.nimbusds.jose.jwk.JWKSet;
import com.nimbusds.jose.jwk.KeyUse;
import com.nimbusds.jose.jwk.OctetKeyPair;
import com.nimbusds.jose.jwk.RSAKey;
import com.nimbusds.jose.jwk.gen.ECKeyGenerator;
import com.nimbusds.jose.jwk.gen.JWKGenerator;
import com.nimbusds.jose.jwk.gen.OctetKeyPairGenerator;
import com.nimbusds.jose.jwk.gen.RSAKeyGenerator;
import com.nimbusds.jose.util.JSONObjectUtils;
import com.nimbusds.jwt.JWTClaimsSet;
import com.nimbusds.jwt.PlainJWT;
import com.nimbusds.jwt.SignedJWT;
import java.security.SecureRandom;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Date;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

public class MakeTokens {
    static final String ISSUER = System.getenv("ISSUER");
    static final String AUDIENCE = System.getenv("AUDIENCE");
    static final String ELSEWHERE = "https://other.example.com";

    /** A secret as text, or a key pair. */
    static Object makeKey(JWSAlgorithm algorithm) throws JOSEException {
        if (JWSAlgorithm.Family.HMAC_SHA.contains(algorithm)) {
            byte[] random = new byte[64];
            new SecureRandom().nextBytes(random);
            StringBuilder secret = new StringBuilder();
            for (byte one : random) secret.append(String.format("%02x", one));
            return secret.toString();
        }
        JWKGenerator<? extends JWK> generator;
        if (JWSAlgorithm.Family.RSA.contains(algorithm)) generator = new RSAKeyGenerator(2048);
        else if (algorithm.equals(JWSAlgorithm.EdDSA)) generator = new OctetKeyPairGenerator(Curve.Ed25519);
        else generator = new ECKeyGenerator(algorithm.equals(JWSAlgorithm.ES256) ? Curve.P_256 : Curve.P_384);
        return generator.keyUse(KeyUse.SIGNATURE).algorithm(algorithm).keyID(algorithm.getName()).generate();
    }

    static JWSSigner signer(Object key) throws JOSEException {
        if (key instanceof RSAKey) return new RSASSASigner((RSAKey) key);
        if (key instanceof ECKey) return new ECDSASigner((ECKey) key);
        if (key instanceof OctetKeyPair) return new Ed25519Signer((OctetKeyPair) key);
        return new MACSigner((String) key);
    }

    static JWTClaimsSet claims(Instant expires, String... audiences) {
        // docs: begin
        JWTClaimsSet claims = new JWTClaimsSet.Builder()
                .issuer(ISSUER)
                .audience(List.of(audiences))
                .subject("42")
                .claim("account_id", 7)
                .issueTime(new Date())
                .expirationTime(Date.from(expires))
                .build();
        // docs: end
        return claims;
    }

    static String sign(JWSAlgorithm algorithm, String kid, Object key, JWTClaimsSet claims) throws JOSEException {
        SignedJWT token = new SignedJWT(new JWSHeader.Builder(algorithm).keyID(kid).build(), claims);
        token.sign(signer(key));
        return token.serialize();
    }

    static Map<String, String> tokens(JWSAlgorithm algorithm, Object key) throws JOSEException {
        String kid = algorithm.getName();
        Instant soon = Instant.now().plusSeconds(600);
        Map<String, String> made = new LinkedHashMap<>();
        made.put("plain", sign(algorithm, null, key, claims(soon, AUDIENCE)));
        made.put("named", sign(algorithm, kid, key, claims(soon, ELSEWHERE, AUDIENCE)));
        made.put("expired", sign(algorithm, kid, key, claims(Instant.now().minusSeconds(60), AUDIENCE)));
        made.put("audience", sign(algorithm, kid, key, claims(soon, ELSEWHERE)));
        made.put("key", sign(algorithm, kid, makeKey(algorithm), claims(soon, AUDIENCE)));
        if (kid.equals("RS256") || kid.equals("PS256")) {
            made.put("algorithm", sign(JWSAlgorithm.RS512, kid, key, claims(soon, AUDIENCE)));
        }
        if (kid.equals("ES256")) made.put("none", new PlainJWT(claims(soon, AUDIENCE)).serialize());
        return made;
    }

    public static void main(String[] arguments) {
        Map<String, Object> secrets = new LinkedHashMap<>();
        List<JWK> published = new ArrayList<>();
        List<Object> tokens = new ArrayList<>();
        Map<String, Object> cannot = new LinkedHashMap<>();
        for (String name : System.getenv("ALGORITHMS").split(" ")) {
            try {
                JWSAlgorithm algorithm = JWSAlgorithm.parse(name);
                Object key = makeKey(algorithm);
                tokens(algorithm, key)
                        .forEach((kind, token) -> tokens.add(Map.of("alg", name, "case", kind, "token", token)));
                if (key instanceof JWK) published.add((JWK) key);
                else secrets.put(name, key);
            } catch (JOSEException | RuntimeException error) {
                cannot.put(name, error.toString());
            }
        }
        Map<String, Object> jwks = new JWKSet(published).toPublicJWKSet().toJSONObject();
        System.out.println(JSONObjectUtils.toJSONString(
                Map.of("secrets", secrets, "jwks", jwks, "tokens", tokens, "cannot", cannot)));
    }
}
