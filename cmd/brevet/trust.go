package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/keys/trust"
	"github.com/brevet-dev/brevet/plugins/runner"
)

// verifyTrust says why the roots and epochs in a trust bundle can be trusted, or
// that they cannot. It asks nobody: the bundle is in a file or comes by stdin.
func (p *program) verifyTrust(_ context.Context, args []string) (int, error) {
	var o trust.VerifyOptions
	f := flags("verify-trust")
	f.Func("root", "", func(s string) error {
		if !trust.IsFingerprint(s) {
			return errors.New("a fingerprint is sha256: and 64 digits of 0-9a-f")
		}
		o.Pins = append(o.Pins, s)
		return nil
	})
	f.BoolVar(&o.RequireTPM, "require-tpm", false, "")
	f.Func("nonce", "", func(s string) (err error) {
		o.Nonce, err = parseNonce(s)
		return err
	})
	ekCA := f.String("ek-ca", "", "")
	asJSON := f.Bool("json", false, "")
	files, err := p.parse(f, args)
	if err == nil && len(files) != 1 {
		err = usagef("verify-trust: name one FILE, or - for stdin")
	}
	if err == nil {
		o.EKRoots, err = p.readEKRoots(*ekCA)
	}
	if err != nil {
		return statusOf(err), err
	}
	o.Now = time.Now()
	report, err := p.verifyBundle(files[0], o)
	if err == nil {
		err = p.printReport(report, *asJSON)
	}
	return statusOf(err), err
}

func parseNonce(s string) ([]byte, error) {
	nonce, err := hex.DecodeString(s)
	if err != nil || len(nonce) == 0 || len(nonce) > trust.MaxNonce {
		return nil, fmt.Errorf("a nonce has 1 to %d bytes, in hexadecimal", trust.MaxNonce)
	}
	return nonce, nil
}

// maxCAs in bytes bounds the file of CAs of TPM makers.
const maxCAs = 4 << 20

// readEKRoots returns nil if there is no file.
func (p *program) readEKRoots(file string) ([]*x509.Certificate, error) {
	if file == "" {
		return nil, nil
	}
	data, err := p.read(file, maxCAs)
	if err != nil {
		return nil, &runner.Failure{Kind: runner.Misconfigured, Err: fmt.Errorf("reading CAs of TPM makers: %w", err)}
	}
	roots, err := trust.ParseEKRootsPEM(data)
	if err != nil {
		return nil, &runner.Failure{Kind: runner.Misconfigured, Err: err, Hint: "the makers of TPMs publish them; openssl x509 -inform der converts one"}
	}
	return roots, nil
}

// verifyBundle reads and verifies the bundle in file, or stdin if that is "-".
func (p *program) verifyBundle(file string, o trust.VerifyOptions) (*trust.Report, error) {
	if file == "-" {
		file = ""
	}
	data, err := p.read(file, trust.MaxBundle)
	if err != nil {
		return nil, &runner.Failure{
			Kind: runner.Misconfigured, Err: fmt.Errorf("reading a trust bundle: %w", err),
			Hint: "it is what the broker answers: curl -fsS https://BROKER/v1/trust | brevet verify-trust --root FINGERPRINT -",
		}
	}
	bundle, err := trust.ParseBundle(data)
	var report *trust.Report
	if err == nil {
		report, err = bundle.Verify(o)
	}
	if err != nil {
		return nil, &runner.Failure{Kind: runner.Protocol, Err: err, Hint: trustHint(err)}
	}
	return report, nil
}

func trustHint(err error) string {
	if errors.Is(err, trust.ErrUnknownRoot) {
		return "give --root for a root that you know to be right: whoever runs the broker reads its fingerprint\n" +
			"in brevetd keys status on that machine; one read from the bundle itself would prove nothing"
	}
	return "believe nothing that this bundle says, and show this to whoever runs the broker"
}

func (p *program) printReport(report *trust.Report, asJSON bool) error {
	text := reportText(report)
	if asJSON {
		data, err := json.MarshalIndent(report, "", "  ")
		if err != nil {
			return fmt.Errorf("encoding the report: %w", err)
		}
		text = string(data) + "\n"
	}
	if _, err := p.stdout.Write([]byte(runner.Defused(text))); err != nil {
		return outputError{fmt.Errorf("printing the report: %w", err)}
	}
	return nil
}

// reportText writes a report for people: each root with why it is trusted, then
// each epoch.
func reportText(r *trust.Report) string {
	var out strings.Builder
	fmt.Fprintf(&out, "ok: %s, roots: %d, epochs: %d\n", r.URL, len(r.Brokers), len(r.Epochs))
	for _, b := range r.Brokers {
		rows := [][2]string{{"trusted", b.Trusted}, {"kept in", b.Kind}}
		rows = append(append(rows, attestationRows(b)...), [2]string{"until", stamp(b.Ends)})
		writeRows(&out, "root "+b.Root, rows)
	}
	for _, e := range r.Epochs {
		writeRows(&out, "epoch "+e.KeyID, [][2]string{
			{"root", e.Root}, {"serial", e.Serial}, {"from", stamp(e.NotBefore)}, {"until", stamp(e.NotAfter)},
		})
	}
	return out.String()
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func writeRows(out *strings.Builder, title string, rows [][2]string) {
	fmt.Fprintf(out, "\n%s\n", title)
	for _, row := range rows {
		fmt.Fprintf(out, "  %-16s %s\n", row[0], row[1])
	}
}

// attestationRows says what is proved about where the keys of a root are, and
// what is not.
func attestationRows(b trust.BrokerReport) [][2]string {
	a := b.Attestation
	if a == nil {
		return [][2]string{{"attestation", "none: where its keys are is only what its broker says"}}
	}
	ek, nonce, policy := "none", "not answered: this attestation is older", "no"
	switch {
	case a.EKCA != "":
		ek = fmt.Sprintf("%s, certified by %q", a.EK, a.EKCA)
	case a.EK != "":
		ek = a.EK + ", its certificate not checked: give --ek-ca"
	}
	if a.Fresh {
		nonce = "answered"
	}
	if a.Policy {
		policy = "yes: its TPM checks one, as about what was booted, at every use"
	}
	return [][2]string{
		{"attestation", "valid: its keys were made in the TPM of the attestation key, and cannot leave it"},
		{"attestation key", a.AK + ", " + a.Proof},
		{"endorsement key", ek},
		{"nonce", nonce},
		{"policy", policy},
	}
}
