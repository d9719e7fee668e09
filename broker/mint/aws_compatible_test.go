package mint_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/mint"
)

// plainAnswer is what a server that only speaks the protocol sends: the
// credentials and nothing else.
func plainAnswer(key string, end time.Time) string {
	return `<?xml version="1.0" encoding="UTF-8"?>
<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>
<Credentials><AccessKeyId>` + key + `</AccessKeyId><SecretAccessKey>SECRET</SecretAccessKey>
<Expiration>` + end.UTC().Format("2006-01-02T15:04:05.000Z") + `</Expiration><SessionToken>TOKEN</SessionToken></Credentials>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`
}

// compatible points the credential to a server that answers with h.
func (l *lab) compatible(t *testing.T, h http.HandlerFunc) mint.Config {
	return l.web(func(c *mint.Config) {
		c.RoleARN, c.Region, c.Endpoint = "arn:minio:iam:::role/nOybJqMNzNmroqEKq5D0EUsRZw0", "", serve(t, h)
	})
}

func write(t *testing.T, w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Error(err)
	}
}

func TestAWSCompatibleServer(t *testing.T) {
	lab := newLab(t)
	var got string
	cred, _, err := lab.mint(t, lab.compatible(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.FormValue("RoleArn") + " " + r.Header.Get("Authorization")
		write(t, w, http.StatusOK, plainAnswer("KEY", time.Now().Add(time.Hour)))
	}), aSession())
	if err != nil {
		t.Fatal(err)
	}
	if got != "arn:minio:iam:::role/nOybJqMNzNmroqEKq5D0EUsRZw0 " {
		t.Errorf("the request had role and authorization %q", got)
	}
	if cred.Values["session_token"].Reveal() != "TOKEN" || cred.Values["region"].Reveal() != "us-east-1" {
		t.Errorf("values %v", cred.Values)
	}
}

// A server's clock may be a little ahead; the credential is the lease's all the
// same, and more than a little is refused.
func TestAWSClockSkew(t *testing.T) {
	lab := newLab(t)
	for late, ok := range map[time.Duration]bool{-3 * time.Second: true, 3 * time.Second: true, 8 * time.Second: false} {
		cred, lease, err := lab.mint(t, lab.compatible(t, func(w http.ResponseWriter, _ *http.Request) {
			write(t, w, http.StatusOK, plainAnswer("KEY", time.Now().Add(time.Hour+time.Minute+late)))
		}), aSession())
		switch {
		case ok && (err != nil || cred.Expires.After(lease.Expires)):
			t.Errorf("%s late: Mint = %v, %v", late, cred, err)
		case !ok && !errors.Is(err, broker.ErrTarget):
			t.Errorf("%s late: Mint = %v, want ErrTarget", late, err)
		}
	}
}

func TestAWSOversizedValue(t *testing.T) {
	lab := newLab(t)
	_, _, err := lab.mint(t, lab.compatible(t, func(w http.ResponseWriter, _ *http.Request) {
		write(t, w, http.StatusOK, plainAnswer(strings.Repeat("K", 20_000), time.Now().Add(time.Hour)))
	}), aSession())
	if !errors.Is(err, broker.ErrTarget) || !strings.Contains(err.Error(), "access_key_id in the answer of sts is too long") {
		t.Errorf("Mint = %v", err)
	}
}

// A redirect is an answer like any other that is not one of STS.
func TestAWSRedirectIsNotFollowed(t *testing.T) {
	lab := newLab(t)
	elsewhere := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") })
	for _, status := range []int{301, 302, 303, 307, 308} {
		_, _, err := lab.mint(t, lab.compatible(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere, status)
		}), aSession())
		if !errors.Is(err, broker.ErrTarget) {
			t.Errorf("status %d: Mint = %v, want ErrTarget", status, err)
		}
	}
}

// What a server says is shown to operators, within bounds.
func TestAWSMessages(t *testing.T) {
	lab := newLab(t)
	for name, tt := range map[string]struct{ message, want string }{
		"plain":   {"User: arn:aws:iam::111122223333:user/x may not", "AccessDenied (HTTP 403, request id \"\"): User: arn:aws:iam::111122223333:user/x may not"},
		"lines":   {"one\ntwo\x7f\u202ethree", "one two"},
		"long":    {strings.Repeat("word ", 1000), "word word"},
		"a token": {"rejected eyJhbGciOiJFUzI1NiJ9eyJhbGciOiJFUzI1NiJ9", "rejected [removed]"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := lab.mint(t, lab.compatible(t, func(w http.ResponseWriter, _ *http.Request) {
				write(t, w, http.StatusForbidden, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>`+
					tt.message+`</Message></Error></ErrorResponse>`)
			}), aSession())
			if !errors.Is(err, broker.ErrTarget) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Mint = %v, want …%s…", err, tt.want)
			}
			lab.checkClean(t, err)
		})
	}
}
