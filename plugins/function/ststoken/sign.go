package ststoken

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// service is what requests are signed for.
const service = "sts"

// sign signs a POST of body to the root of a host at the time now: AWS Signature
// Version 4. All of the request that STS acts on is in the signature.
//
// Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
func sign(req *http.Request, body string, k keys, region string, now time.Time) {
	stamp := now.UTC().Format("20060102T150405Z")
	headers := [][2]string{ // sorted by name
		{"content-length", strconv.Itoa(len(body))},
		{"content-type", req.Header.Get("Content-Type")},
		{"host", req.URL.Host},
		{"x-amz-date", stamp},
	}
	req.Header.Set("X-Amz-Date", stamp)
	if !k.token.IsZero() {
		headers = append(headers, [2]string{"x-amz-security-token", k.token.Reveal()})
		req.Header.Set("X-Amz-Security-Token", k.token.Reveal())
	}
	var lines, names []string
	for _, h := range headers {
		lines, names = append(lines, h[0]+":"+h[1]+"\n"), append(names, h[0])
	}
	signed := strings.Join(names, ";")
	canonical := "POST\n/\n\n" + strings.Join(lines, "") + "\n" + signed + "\n" + hash(body)

	scope := stamp[:8] + "/" + region + "/" + service + "/aws4_request"
	text := "AWS4-HMAC-SHA256\n" + stamp + "\n" + scope + "\n" + hash(canonical)
	signature := hex.EncodeToString(mac(signingKey(k.secret, stamp[:8], region), text))
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+k.id+"/"+scope+", SignedHeaders="+signed+", Signature="+signature)
}

// signingKey is good for one day, region and service.
func signingKey(secret api.Secret, day, region string) []byte {
	key := []byte("AWS4" + secret.Reveal())
	for _, part := range []string{day, region, service, "aws4_request"} {
		key = mac(key, part)
	}
	return key
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text)) // never fails: hash.Hash
	return h.Sum(nil)
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
