// Makes tokens of every algorithm with golang-jwt, and prints them with the keys that check them.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"log"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const elsewhere = "https://other.example.com"

var issuer, audience = os.Getenv("ISSUER"), os.Getenv("AUDIENCE")

// Claims are the claims of a user's token.
type Claims struct {
	jwt.RegisteredClaims
	AccountID int `json:"account_id"`
}

// Token is a token and what is special about it.
type Token struct {
	Alg   string `json:"alg"`
	Case  string `json:"case"`
	Token string `json:"token"`
}

// Output is what the program prints.
type Output struct {
	Secrets map[string]string `json:"secrets"`
	Pems    map[string]string `json:"pems"`
	Tokens  []Token           `json:"tokens"`
	Cannot  map[string]string `json:"cannot"`
}

// makeKey returns a private key and its public part as PEM. For a secret, that is the secret itself.
func makeKey(alg string) (any, string, error) {
	var private crypto.Signer
	var err error
	switch {
	case strings.HasPrefix(alg, "HS"):
		random := make([]byte, 64)
		if _, err = rand.Read(random); err != nil {
			return nil, "", err
		}
		secret := hex.EncodeToString(random)
		return []byte(secret), secret, nil
	case alg == "ES256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case alg == "ES384":
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case alg == "EdDSA":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		return nil, "", err
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	return private, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), err
}

func claimsFor(audiences ...string) Claims {
	// docs: begin
	claims := Claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    issuer,
			Audience:  audiences,
			Subject:   "42",
			IssuedAt:  jwt.NewNumericDate(time.Now()),
			ExpiresAt: jwt.NewNumericDate(time.Now().Add(10 * time.Minute)),
		},
		AccountID: 7,
	}
	// docs: end
	return claims
}

func sign(alg, kid string, key any, claims Claims) (string, error) {
	token := jwt.NewWithClaims(jwt.GetSigningMethod(alg), claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	return token.SignedString(key)
}

// makeTokens returns the tokens of an algorithm, and what checks them.
func makeTokens(alg string) ([]Token, string, error) {
	key, public, err := makeKey(alg)
	if err != nil {
		return nil, "", err
	}
	another, _, err := makeKey(alg)
	if err != nil {
		return nil, "", err
	}
	expired := claimsFor(audience)
	expired.ExpiresAt = jwt.NewNumericDate(time.Now().Add(-time.Minute))
	cases := []struct {
		name, alg, kid string
		key            any
		claims         Claims
	}{
		{"plain", alg, "", key, claimsFor(audience)},
		{"named", alg, alg, key, claimsFor(elsewhere, audience)},
		{"expired", alg, alg, key, expired},
		{"audience", alg, alg, key, claimsFor(elsewhere)},
		{"key", alg, alg, another, claimsFor(audience)},
	}
	if alg == "RS256" || alg == "PS256" {
		cases = append(cases, cases[0])
		last := &cases[len(cases)-1]
		last.name, last.alg, last.kid = "algorithm", "RS512", alg
	}
	if alg == "ES256" {
		cases = append(cases, cases[0])
		last := &cases[len(cases)-1]
		last.name, last.alg, last.key = "none", "none", jwt.UnsafeAllowNoneSignatureType
	}
	var tokens []Token
	for _, c := range cases {
		token, err := sign(c.alg, c.kid, c.key, c.claims)
		if err != nil {
			return nil, "", err
		}
		tokens = append(tokens, Token{alg, c.name, token})
	}
	return tokens, public, nil
}

func main() {
	output := Output{map[string]string{}, map[string]string{}, nil, map[string]string{}}
	for _, alg := range strings.Fields(os.Getenv("ALGORITHMS")) {
		if jwt.GetSigningMethod(alg) == nil {
			output.Cannot[alg] = "no such signing method"
			continue
		}
		tokens, public, err := makeTokens(alg)
		switch {
		case err != nil:
			output.Cannot[alg] = err.Error()
			continue
		case strings.HasPrefix(alg, "HS"):
			output.Secrets[alg] = public
		default:
			output.Pems[alg] = public
		}
		output.Tokens = append(output.Tokens, tokens...)
	}
	if err := json.NewEncoder(os.Stdout).Encode(output); err != nil {
		log.Fatal(err)
	}
}
