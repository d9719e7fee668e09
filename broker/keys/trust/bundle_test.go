package trust

import (
	"bytes"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// A fleet is a bundle of software roots, of which the first is pinned and
// endorses the second.
type fleet struct {
	bundle   *Bundle
	subjects []*subject
	options  VerifyOptions
}

func newFleet(t testing.TB) *fleet {
	t.Helper()
	now := time.Now()
	f := &fleet{bundle: &Bundle{Format: 1, URL: vectorURL}, options: VerifyOptions{Now: now}}
	for range 2 {
		f.add(t)
	}
	f.endorse(t, 0, 1)
	for _, s := range f.subjects {
		f.bundle.Epochs = append(f.bundle.Epochs, newEpoch(t, s.root, s.key, vectorURL, now))
	}
	f.options.Pins = []string{Fingerprint(f.subjects[0].root)}
	return f
}

func (f *fleet) add(t testing.TB) *subject {
	t.Helper()
	s := newSubject(t, f.options.Now)
	f.subjects = append(f.subjects, s)
	f.bundle.Brokers = append(f.bundle.Brokers, Broker{Kind: KindSoftware, Root: s.root.Raw, Agreement: s.agreement.Raw})
	return s
}

// endorse has one root endorse another, by their numbers.
func (f *fleet) endorse(t testing.TB, by, of int) {
	t.Helper()
	cert, err := NewEndorsement(f.subjects[by].root, f.subjects[by].key, f.subjects[of].root, f.options.Now)
	if err != nil {
		t.Fatal(err)
	}
	f.bundle.Brokers[of].Endorsements = append(f.bundle.Brokers[of].Endorsements, cert.Raw)
}

// attest gives a broker an attestation.
func (f *fleet) attest(t testing.TB, i int, nonce string) {
	t.Helper()
	f.bundle.Brokers[i].Kind = KindTPM
	f.bundle.Brokers[i].Attestation = forge(t, f.subjects[i], []byte(nonce), func(*forged) {})
}

func TestVerify(t *testing.T) {
	f := newFleet(t)
	report, err := f.bundle.Verify(f.options)
	if err != nil {
		t.Fatal(err)
	}
	first, second := Fingerprint(f.subjects[0].root), Fingerprint(f.subjects[1].root)
	if report.URL != vectorURL || len(report.Brokers) != 2 || len(report.Epochs) != 2 {
		t.Fatalf("report: %+v", report)
	}
	if b := report.Brokers[0]; b.Root != first || b.Kind != "software" || b.Trusted != "pinned" || b.Attestation != nil || !b.Ends.Equal(f.subjects[0].root.NotAfter) {
		t.Errorf("first: %+v", b)
	}
	if b := report.Brokers[1]; b.Root != second || b.Trusted != "endorsed by "+first {
		t.Errorf("second: %+v", b)
	}
	if e := report.Epochs[1]; e.Root != second || len(e.KeyID) != 43 || e.Serial == "" || e.NotAfter.Sub(e.NotBefore) > MaxEpoch {
		t.Errorf("epoch: %+v", e)
	}
}

// Each of these differs in one thing from a bundle that is believed.
func TestVerifyRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*testing.T, *fleet)
		want   string
	}{
		"nothing pinned":     {func(t *testing.T, f *fleet) { f.options.Pins = nil }, "none of its roots is pinned: nothing says"},
		"another pinned":     {func(t *testing.T, f *fleet) { f.options.Pins = []string{Fingerprint(newSubject(t, time.Now()).root)} }, "none of its roots is pinned: nothing says"},
		"pin in capitals":    {func(t *testing.T, f *fleet) { f.options.Pins[0] = strings.ToUpper(f.options.Pins[0]) }, "is no fingerprint of a root"},
		"pin cut":            {func(t *testing.T, f *fleet) { f.options.Pins[0] = f.options.Pins[0][:70] }, "is no fingerprint of a root"},
		"no endorsement":     {func(t *testing.T, f *fleet) { f.bundle.Brokers[1].Endorsements = nil }, "neither pinned nor endorsed by a root that is trusted (it has no endorsement): nothing says"},
		"endorses itself":    {func(t *testing.T, f *fleet) { f.bundle.Brokers[1].Endorsements = nil; f.endorse(t, 1, 1) }, "none of the roots that are trusted signed it"},
		"endorsed in a ring": {func(t *testing.T, f *fleet) { f.add(t); f.add(t); f.endorse(t, 3, 2); f.endorse(t, 2, 3) }, "none of the roots that are trusted signed it"},
		"endorsed further on": {func(t *testing.T, f *fleet) {
			f.add(t)
			f.bundle.Brokers[2].Endorsements = f.bundle.Brokers[1].Endorsements
		}, "it is of another root's key"},
		"endorsed by a root":   {func(t *testing.T, f *fleet) { f.bundle.Brokers[1].Endorsements = [][]byte{f.subjects[1].root.Raw} }, "not a CA with path length 0"},
		"root twice":           {func(t *testing.T, f *fleet) { f.bundle.Brokers[1] = f.bundle.Brokers[0] }, "one of its keys is there twice"},
		"root key twice":       {sameRootKey, "one of its keys is there twice"},
		"agreement of another": {func(t *testing.T, f *fleet) { f.bundle.Brokers[0].Agreement = f.bundle.Brokers[1].Agreement }, "reading an agreement certificate: none of the roots"},
		"agreement is a root":  {func(t *testing.T, f *fleet) { f.bundle.Brokers[0].Agreement = f.bundle.Brokers[0].Root }, "reading an agreement certificate: its subject"},
		"root is an epoch":     {func(t *testing.T, f *fleet) { f.bundle.Brokers[0].Root = f.bundle.Epochs[0] }, "broker 1: reading a root certificate: its subject"},
		"tpm by its word":      {func(t *testing.T, f *fleet) { f.bundle.Brokers[1].Kind = KindTPM }, "says that it is in a TPM, and has no attestation"},
		"tpm is required":      {func(t *testing.T, f *fleet) { f.attest(t, 0, ""); f.options.RequireTPM = true }, "it is not in a TPM: its kind is software"},
		"attested software":    {func(t *testing.T, f *fleet) { f.attest(t, 0, ""); f.bundle.Brokers[0].Kind = KindSoftware }, "its kind is software, and it has an attestation"},
		"attests another": {func(t *testing.T, f *fleet) {
			f.attest(t, 0, "")
			f.attest(t, 1, "")
			f.bundle.Brokers[1].Attestation = f.bundle.Brokers[0].Attestation
		}, "of another key than the certificate's"},
		"no nonce":      {func(t *testing.T, f *fleet) { f.options.Nonce = []byte("nonce") }, "no attestation answers the nonce"},
		"another nonce": {func(t *testing.T, f *fleet) { f.attest(t, 0, "other"); f.options.Nonce = []byte("nonce") }, "no attestation answers the nonce"},
		"false nonce": {func(t *testing.T, f *fleet) {
			f.attest(t, 0, "other")
			f.bundle.Brokers[0].Attestation.Nonce = []byte("nonce")
		}, "answers another nonce"},
		"no EK certificate": {func(t *testing.T, f *fleet) { f.attest(t, 0, ""); f.options.EKRoots = vectorCA(t) }, "checking the endorsement key: it has no certificate"},
		"epoch of another": {func(t *testing.T, f *fleet) {
			s := newSubject(t, time.Now())
			f.bundle.Epochs[1] = newEpoch(t, s.root, s.key, vectorURL, f.options.Now)
		}, "epoch 2: reading an epoch certificate: none of the roots"},
		"epoch of another url": {func(t *testing.T, f *fleet) { f.bundle.URL = "https://other.example.com" }, "epoch 1: reading an epoch certificate: it is of a broker with another url"},
		"epoch twice":          {func(t *testing.T, f *fleet) { f.bundle.Epochs[1] = f.bundle.Epochs[0] }, "is there twice"},
		"epochs over":          {func(t *testing.T, f *fleet) { f.options.Now = f.options.Now.Add(MaxEpoch) }, "epoch 1: reading an epoch certificate: it is not valid at this time"},
		"roots over":           {func(t *testing.T, f *fleet) { f.options.Now = f.options.Now.AddDate(11, 0, 0) }, "not valid at this time"},
		"no time":              {func(t *testing.T, f *fleet) { f.options.Now = time.Time{} }, "not valid at this time"},
		"another format":       {func(t *testing.T, f *fleet) { f.bundle.Format = 2 }, "its format is 2, not 1"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t)
			tt.change(t, f)
			report, err := f.bundle.Verify(f.options)
			checkRefusal(t, err, tt.want)
			if report != nil {
				t.Errorf("refused, with the report %+v", report)
			}
			if strings.Contains(tt.want, "nothing says") && !errors.Is(err, ErrUnknownRoot) {
				t.Errorf("%v: not ErrUnknownRoot", err)
			}
		})
	}
}

// sameRootKey has the second root be another certificate of the first's key.
func sameRootKey(t *testing.T, f *fleet) {
	s := f.subjects[0]
	again, err := NewRoot(s.key, s.now)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := newKey(t, elliptic.P256()).PublicKey.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	agreement, err := NewAgreement(again, s.key, pub)
	if err != nil {
		t.Fatal(err)
	}
	f.bundle.Brokers[1].Root, f.bundle.Brokers[1].Agreement = again.Raw, agreement.Raw
}

// Whoever was let in lets in others: in whatever order the bundle has them.
func TestVerifyFollowsEndorsements(t *testing.T) {
	f := newFleet(t)
	for range 2 {
		f.add(t)
	}
	f.endorse(t, 3, 2)
	f.endorse(t, 1, 3)
	report, err := f.bundle.Verify(f.options)
	if err != nil {
		t.Fatal(err)
	}
	for i, by := range map[int]int{1: 0, 3: 1, 2: 3} {
		if want := "endorsed by " + Fingerprint(f.subjects[by].root); report.Brokers[i].Trusted != want {
			t.Errorf("broker %d: %q, want %q", i, report.Brokers[i].Trusted, want)
		}
	}
}

// An endorsement that says nothing does not spoil one that does.
func TestVerifyManyEndorsements(t *testing.T) {
	f := newFleet(t)
	good := f.bundle.Brokers[1].Endorsements[0]
	f.bundle.Brokers[1].Endorsements = [][]byte{{1}, f.bundle.Epochs[0], good}
	if _, err := f.bundle.Verify(f.options); err != nil {
		t.Error(err)
	}
}

func TestVerifyFresh(t *testing.T) {
	f := newFleet(t)
	f.attest(t, 0, "nonce")
	f.attest(t, 1, "older")
	f.options.Nonce, f.options.RequireTPM = []byte("nonce"), true
	report, err := f.bundle.Verify(f.options)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := report.Brokers[0].Attestation, report.Brokers[1].Attestation; !a.Fresh || b.Fresh || a.Proof != "self-asserted" || a.EKCA != "" || len(a.AK) != 68 {
		t.Errorf("attestations %+v, %+v", a, b)
	}
	f.options.Nonce = nil
	if report, err = f.bundle.Verify(f.options); err != nil || report.Brokers[0].Attestation.Fresh {
		t.Errorf("without a nonce: %+v, %v", report, err)
	}
}

func TestBundleRoundTrip(t *testing.T) {
	f := newFleet(t)
	f.attest(t, 0, "nonce")
	for name, b := range map[string]*Bundle{"fleet": f.bundle, "no epochs": {1, vectorURL, f.bundle.Brokers, nil}} {
		data, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, data, "", "\t"); err != nil {
			t.Fatal(err)
		}
		for _, text := range [][]byte{data, pretty.Bytes(), append([]byte("\n "), append(data, '\n')...)} {
			parsed, err := ParseBundle(text)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if again, err := parsed.Encode(); err != nil || !bytes.Equal(again, data) {
				t.Errorf("%s: encodes as %s, %v, want %s", name, again, err, data)
			}
		}
	}
}

func TestParseBundleRefuses(t *testing.T) {
	f := newFleet(t)
	f.attest(t, 0, "nonce")
	data, err := f.bundle.Encode()
	if err != nil {
		t.Fatal(err)
	}
	const form = "it has members that are unknown"
	for name, tt := range map[string]struct{ old, new, want string }{
		"unknown member":    {`{"format"`, `{"extra":1,"format"`, form},
		"twice":             {`{"format":1,`, `{"format":1,"format":1,`, form},
		"twice, first wins": {`{"format":1,`, `{"format":2,"format":1,`, form},
		"other order":       {`"format":1,"url":"` + vectorURL + `"`, `"url":"` + vectorURL + `","format":1`, form},
		"capitals":          {`"format"`, `"Format"`, form},
		"escaped":           {`https:`, `\u0068ttps:`, form},
		"other number":      {`"format":1`, `"format":1.0`, "other types"},
		"no epochs":         {`,"epochs":[`, `,"others":[`, form},
		"null":              {`"epochs":[`, `"epochs":null,"e":[`, form},
		"null in it":        {`"epochs":[`, `"epochs":[null,`, "a certificate is missing"},
		"empty member":      {`"endorsements":[`, `"endorsements":[],"x":[`, form},
		"line break":        {`"root":"MII`, `"root":"MI\nI`, form},
		"base64url":         {`"root":"M`, `"root":"_`, "other types"},
		"other kind":        {`"kind":"software"`, `"kind":"hsm"`, "broker 2: its kind is neither"},
		"no kind":           {`"kind":"software",`, ``, "broker 2: its kind is neither"},
		"no root":           {`"root":"MII`, `"roof":"MII`, "broker 1: a certificate is missing"},
		"no url":            {vectorURL, ``, "its url is not a broker's"},
		"path as url":       {vectorURL, `/tmp`, "its url is not a broker's"},
		"odd url":           {vectorURL, `https://broker.example.com/a b`, "its url is not a broker's"},
		"newer":             {`"format":1`, `"format":2`, "its format is 2, not 1: use a newer brevet"},
		"trailing data":     {`{"format"`, `{} {"format"`, "it is not JSON"},
		"a list":            {`{"format"`, `[{"format"`, "it is not JSON"},
		"not UTF-8":         {"broker.example", "br\xffker.example", "its url is not a broker's"},
		"nonce as text":     {`"nonce":"`, `"nonce":"-`, "other types"},
		"no statement":      {`"attest":"`, `"attested":"`, "broker 1: a TPM structure of its attestation is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(string(data), tt.old, tt.new, 1)
			if changed == string(data) {
				t.Fatal("nothing changed")
			}
			b, err := ParseBundle([]byte(changed))
			checkRefusal(t, err, tt.want)
			if b != nil {
				t.Error("refused, with a bundle")
			}
		})
	}
	for text, want := range map[string]string{"": "not JSON", "null": "its format is 0", "{}": "its format is 0", string(data) + "x": "not JSON", strings.Repeat(" ", MaxBundle+1): "more than 1048576 bytes"} {
		_, err := ParseBundle([]byte(text))
		checkRefusal(t, err, want)
	}
}

func TestEncodeBounds(t *testing.T) {
	many := func(n int, size int) (out [][]byte) {
		for range n {
			out = append(out, make([]byte, size))
		}
		return out
	}
	for name, tt := range map[string]struct {
		change func(*Bundle)
		want   string
	}{
		"no brokers":        {func(b *Bundle) { b.Brokers = nil }, "it has 0 brokers"},
		"many brokers":      {func(b *Bundle) { b.Brokers = make([]Broker, 65) }, "it has 65 brokers"},
		"many epochs":       {func(b *Bundle) { b.Epochs = many(1001, 1) }, "it has 1001 epochs"},
		"large epoch":       {func(b *Bundle) { b.Epochs = many(1, MaxCertificate+1) }, "a certificate is missing, or has more than 4096 bytes"},
		"large in all":      {func(b *Bundle) { b.Epochs = many(1000, 1000) }, "bytes, more than 1048576"},
		"many endorsements": {func(b *Bundle) { b.Brokers[0].Endorsements = many(17, 1) }, "it has 17 endorsements"},
		"long nonce":        {func(b *Bundle) { b.Brokers[0].Attestation.Nonce = make([]byte, 65) }, "its nonce has more than 64 bytes"},
		"long chain":        {func(b *Bundle) { b.Brokers[0].Attestation.EKChain = many(10, 1) }, "more than 9 certificates"},
		"large EK":          {func(b *Bundle) { b.Brokers[0].Attestation.EK = make([]byte, 1025) }, "its endorsement key has more than 1024 bytes"},
		"large certificate": {func(b *Bundle) { b.Brokers[0].Attestation.EKChain = many(1, 8193) }, "more than 8192 bytes"},
		"long url":          {func(b *Bundle) { b.URL = "https://" + strings.Repeat("a", 2000) }, "its url is not a broker's"},
	} {
		f := newFleet(t)
		f.attest(t, 0, "")
		tt.change(f.bundle)
		data, err := f.bundle.Encode()
		if data != nil {
			t.Errorf("%s: encoded", name)
		}
		checkRefusal(t, err, tt.want)
	}
}

// With one bit of anything that is signed changed, the bundle is refused. The
// public areas of AK and EK are not here: nothing signs them, as the package
// says. (They are bound to each other by credential activation.)
func TestVerifyRefusesBitFlips(t *testing.T) {
	b, _ := vector(t, "fleet.json")
	o := vectorOptions(t)
	a := b.Brokers[1].Attestation
	for name, data := range map[string][]byte{
		"root": b.Brokers[1].Root, "agreement": b.Brokers[1].Agreement, "endorsement": b.Brokers[1].Endorsements[0], "epoch": b.Epochs[2],
		"root key": a.Root.Public, "root statement": a.Root.Attest, "root signature": a.Root.Signature,
		"agreement key": a.Agreement.Public, "agreement statement": a.Agreement.Attest, "agreement signature": a.Agreement.Signature,
		"EK certificate": a.EKChain[0], "EK issuer": a.EKChain[1],
	} {
		for i := 0; i < len(data); i += 3 {
			data[i] ^= 1 << (i % 8)
			if _, err := b.Verify(o); err == nil {
				t.Errorf("%s: bit %d of byte %d changed: believed", name, i%8, i)
			}
			data[i] ^= 1 << (i % 8)
		}
	}
	if _, err := b.Verify(o); err != nil {
		t.Error(err)
	}
}
