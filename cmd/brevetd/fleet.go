package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/keys/tpm"
	"github.com/brevet-dev/brevet/broker/keys/trust"
	"github.com/brevet-dev/brevet/broker/lease"
)

// A fleet is the ring of keys, opened for one command, with all it needs.
type fleet struct {
	config *config
	redis  redis.UniversalClient
	root   keys.Root
	ring   *keys.Ring
	leases *lease.Store
}

// withFleet opens the ring for do, and closes everything again.
func withFleet(cmd *cobra.Command, file string, do func(*fleet) error) error {
	return withRoot(cmd, file, func(f *fleet) (err error) {
		if f.ring, err = keys.OpenRing(cmd.Context(), f.redis, f.config.ringOptions(f.root, commandLog(cmd), nil)); err != nil {
			return noRing(err)
		}
		f.leases = lease.New(f.redis, f.ring)
		return do(f)
	})
}

// withRoot opens Redis and the root for do, and closes them again.
func withRoot(cmd *cobra.Command, file string, do func(*fleet) error) error {
	c, err := loadConfig(file)
	if err != nil {
		return err
	}
	f := &fleet{config: c}
	if f.redis, err = c.openRedis(cmd.Context(), &roundTrips{}); err != nil {
		return err
	}
	defer f.redis.Close()
	if f.root, err = c.openRoot(cmd.Context()); err != nil {
		return err
	}
	defer f.root.Close()
	return do(f)
}

// commandLog is where a command's warnings go.
func commandLog(cmd *cobra.Command) *slog.Logger {
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func (c *config) ringOptions(root keys.Root, log *slog.Logger, record func(context.Context, keys.RingChange) error) keys.RingOptions {
	return keys.RingOptions{URL: c.URL, Root: root, State: c.ringState(), Record: record, Challenge: tpm.NewChallenge, Log: log}
}

// noRing adds what to do to an error of opening the ring.
func noRing(err error) error {
	switch {
	case errors.Is(err, keys.ErrRemoved):
		return hint{err, "a root that was removed never comes back; to use this machine again, move the root away, make a new one, and enroll that"}
	case errors.Is(err, keys.ErrNotMember):
		return hint{err, `on this machine: brevetd keys enroll --fleet FINGERPRINT-OF-A-MEMBER; it says what to do there`}
	case errors.Is(err, keys.ErrNoState), errors.Is(err, keys.ErrRolledBack):
		return hint{err, "if that was you: read the digest with \"brevetd keys status\" on another broker, or, if there is none,\n" +
			"in the last line about the ring of a copy of the audit log, then run here: brevetd keys recover DIGEST;\n" +
			"a root that was just made, by a \"brevetd keys init\" that did not end, was never used: move it away and make another"}
	case errors.Is(err, keys.ErrRing):
		return hint{err, "Redis is shared with another fleet, or someone wrote to it; compare \"brevetd keys status\" on all brokers;\n" +
			"if they agree, remove what is in Redis, and each of them puts the ring back: redis-cli DEL brevet:ring"}
	}
	return err
}

// A keysStatus is what "keys status" shows.
type keysStatus struct {
	rootStatus
	Ring *ringStatus `json:"ring,omitempty"` // none before the first start

	failed bool // it could not be read, of which an error tells
}

type ringStatus struct {
	Version uint64         `json:"version"`
	Digest  string         `json:"digest"`
	Change  string         `json:"change"`
	Made    time.Time      `json:"made"`
	Brokers []memberStatus `json:"brokers"`
	KEKs    []kekStatus    `json:"keks"`
}

type memberStatus struct {
	Fingerprint string    `json:"fingerprint"`
	Kind        string    `json:"kind"`
	Attested    bool      `json:"attested"` // a TPM says that the root lives in it
	Activated   bool      `json:"activated"`
	Self        bool      `json:"self"`
	Joined      time.Time `json:"joined"`
	By          string    `json:"enrolled_by"`
}

type kekStatus struct {
	ID      string     `json:"id"`
	Made    time.Time  `json:"made"`
	Newest  bool       `json:"newest"`
	Handles int        `json:"handles"`         // of leases that are sealed under it
	Needed  *time.Time `json:"data_keys_until"` // data keys under it may be unwrapped until then; null: none was wrapped
	Free    bool       `json:"free"`            // nothing is left on it: it can be destroyed
	Why     string     `json:"why,omitempty"`   // it is not free
}

// readFleet looks at the ring without changing anything. It is nil if there is
// none yet. With an error it may hold what could be read.
func (c *config) readFleet(ctx context.Context, root keys.Root) (*ringStatus, error) {
	client, err := c.openRedis(ctx, &roundTrips{})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	s, known, err := keys.ReadRing(ctx, client, c.ringOptions(root, nil, nil))
	if err != nil || !known {
		return nil, noRing(err)
	}
	sealed, err := lease.New(client, keys.KEKNames{}).SealedBy(ctx)
	return newRingStatus(s, sealed, time.Now()), errors.Join(noRing(s.Err), err)
}

func newRingStatus(s keys.RingStatus, sealed map[string]int, now time.Time) *ringStatus {
	out := &ringStatus{Version: s.Version, Digest: s.Digest, Change: s.Change, Made: s.Made.UTC()}
	for _, m := range s.Members {
		out.Brokers = append(out.Brokers, memberStatus{m.Fingerprint, m.Kind, m.Attested, m.Chip, m.Self, m.Joined.UTC(), m.By})
	}
	for _, k := range s.KEKs {
		line := kekStatus{ID: k.ID, Made: k.Made.UTC(), Newest: k.Newest, Handles: sealed[k.ID], Free: true}
		if err := k.Free(sealed, now); err != nil {
			line.Free, line.Why = false, err.Error()
		}
		if k.Needed.Unix() > 0 {
			until := k.Needed.UTC()
			line.Needed = &until
		}
		out.KEKs = append(out.KEKs, line)
	}
	return out
}

func (s keysStatus) show(w io.Writer, asJSON bool) error {
	if asJSON {
		return writeJSON(w, s)
	}
	if err := s.rootStatus.show(w); err != nil {
		return err
	}
	switch {
	case s.Ring != nil:
		return s.Ring.show(w)
	case s.failed:
		return nil
	}
	_, err := fmt.Fprintln(w, "ring         none yet: the broker makes it when it starts")
	return err
}

func (r *ringStatus) show(w io.Writer) error {
	fmt.Fprintf(w, "ring         version %d, %s\n             %s: %s\n\n", r.Version, r.Digest, r.Made.Format(time.RFC3339), r.Change)
	if err := r.showBrokers(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return r.showKEKs(w)
}

func (r *ringStatus) showBrokers(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BROKER\tROOT\tPROVED BY\tJOINED")
	for _, m := range r.Brokers {
		name := m.Fingerprint
		if m.Self {
			name += " (this)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", name, m.Kind, m.proof(), m.Joined.Format(time.DateOnly))
	}
	return t.Flush()
}

func (r *ringStatus) showKEKs(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KEK\tMADE\tHANDLES\tDATA KEYS UNTIL\tSTATE")
	for _, k := range r.KEKs {
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\n", k.ID, k.Made.Format(time.DateOnly), k.Handles, k.until(), k.state())
	}
	return t.Flush()
}

// proof says what is known of a broker's root besides its word.
func (m memberStatus) proof() string {
	switch {
	case m.Activated:
		return "its TPM, challenged"
	case m.Attested:
		return "its TPM, not challenged"
	}
	return "nothing"
}

func (k kekStatus) until() string {
	if k.Needed == nil {
		return "none"
	}
	return k.Needed.Format(time.RFC3339)
}

func (k kekStatus) state() string {
	switch {
	case k.Newest:
		return "wraps"
	case k.Free:
		return "free: nothing is left on it"
	}
	return k.Why
}

// changed shows what a command changed in the ring.
func changed(w io.Writer, c keys.RingChange, asJSON bool) error {
	if asJSON {
		return writeJSON(w, struct {
			Version uint64   `json:"version"`
			Digest  string   `json:"digest"`
			Change  string   `json:"change"`
			Members []string `json:"members"`
			KEK     string   `json:"kek"`
		}{c.Version, c.Digest, c.Change, c.Members, c.KEK})
	}
	_, err := fmt.Fprintf(w, "ok: %s; the ring is at version %d, and every broker has it within seconds\n", c.Change, c.Version)
	return err
}

// changeCommand makes a command that changes the ring.
func changeCommand(cmd *cobra.Command, change func(*cobra.Command, *fleet, []string) (keys.RingChange, error)) *cobra.Command {
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withFleet(cmd, *file, func(f *fleet) error {
			c, err := change(cmd, f, args)
			if err != nil {
				return err
			}
			return changed(cmd.OutOrStdout(), c, *asJSON)
		})
	}
	return cmd
}

func keysRotateCommand() *cobra.Command {
	return changeCommand(&cobra.Command{
		Use:   "rotate",
		Short: "Add a KEK that wraps from now on",
		Args:  noArgs,
	}, func(cmd *cobra.Command, f *fleet, _ []string) (keys.RingChange, error) {
		return f.ring.Rotate(cmd.Context())
	})
}

func keysRemoveCommand() *cobra.Command {
	return changeCommand(&cobra.Command{
		Use:   "remove FINGERPRINT",
		Short: "Take a broker out of the fleet, for ever, and rotate",
		Long: "remove takes the broker with this root out of the fleet: its tokens count no more,\n" +
			"and it cannot read the KEK that is added at the same time. It still knows those it had:\n" +
			"if it was stolen, rewrap, have clients rewrap their data keys, and destroy the old KEKs.",
		Args: fingerprintArg("a root, as \"brevetd keys status\" shows it"),
	}, func(cmd *cobra.Command, f *fleet, args []string) (keys.RingChange, error) {
		return f.ring.Remove(cmd.Context(), args[0])
	})
}

func keysDestroyCommand() *cobra.Command {
	return changeCommand(&cobra.Command{
		Use:   "destroy KEK",
		Short: "Destroy a KEK that nothing needs any more",
		Long: "destroy removes a KEK from the ring: what was wrapped under it is lost. It refuses\n" +
			"while lease handles or data keys need it. Copies of Redis made before still hold the KEK,\n" +
			"encrypted to the chips of the fleet.",
		Args: oneArg("the id of a KEK, as \"brevetd keys status\" shows it"),
	}, func(cmd *cobra.Command, f *fleet, args []string) (keys.RingChange, error) {
		sealed, err := f.leases.SealedBy(cmd.Context())
		if err != nil {
			return keys.RingChange{}, err
		}
		return f.ring.Destroy(cmd.Context(), args[0], sealed, time.Now())
	})
}

// fingerprintArg is oneArg for the fingerprint of a root.
func fingerprintArg(whose string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := oneArg("the fingerprint of "+whose)(cmd, args); err != nil {
			return err
		}
		return checkFingerprint(args[0])
	}
}

func checkFingerprint(s string) error {
	if !trust.IsFingerprint(s) {
		return usageError{hint{fmt.Errorf("%q is no fingerprint", s), "it is \"sha256:\" and 64 hexadecimal digits in lower case, as \"brevetd keys status\" shows it"}}
	}
	return nil
}

func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{hint{fmt.Errorf("want one argument: %s", what), "see: " + cmd.CommandPath() + " --help"}}
		}
		return nil
	}
}

func keysRewrapCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rewrap",
		Short: "Move everything that is stored to the newest KEK",
		Long: "rewrap seals the revocation handles of all leases anew under the newest KEK. It may be\n" +
			"interrupted, run again, and run on several brokers at once. Wrapped data keys are with\n" +
			"those who use them: POST /v1/datakeys/rewrap moves one.",
		Args: noArgs,
	}
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return withFleet(cmd, *file, func(f *fleet) error {
			report := every(time.Second)
			moved, err := f.leases.Reseal(cmd.Context(), func(shards, moved int) {
				if report() {
					fmt.Fprintf(cmd.ErrOrStderr(), "rewrap: %d of %d shards, %d handles moved\n", shards, broker.Shards, moved)
				}
			})
			if err != nil {
				return hint{fmt.Errorf("after %d handles: %w", moved, err), "run it again: what was moved stays moved"}
			}
			if *asJSON {
				return writeJSON(cmd.OutOrStdout(), map[string]int{"moved": moved})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "ok: %d handles moved\n", moved)
			return err
		})
	}
	return cmd
}

// every returns a function that is true at most once in d.
func every(d time.Duration) func() bool {
	last := time.Now()
	return func() bool {
		if time.Since(last) < d {
			return false
		}
		last = time.Now()
		return true
	}
}

func keysEnrollCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "enroll FINGERPRINT | enroll --fleet FINGERPRINT",
		Short: "Let another broker into the fleet, or ask to be let in",
		Long: "On the new broker, after \"brevetd keys init\":\n" +
			"  brevetd keys enroll --fleet FINGERPRINT-OF-A-MEMBER\n" +
			"It shows its own fingerprint, and waits. On that member:\n" +
			"  brevetd keys enroll FINGERPRINT-OF-THE-NEW-BROKER\n" +
			"Each side was told the other's fingerprint by you; so do not take it from Redis, mail\n" +
			"or chat. A member with a TPM lets in only what proves to live in one, too, and\n" +
			"challenges that TPM.",
		Args: cobra.ArbitraryArgs,
	}
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	of := cmd.Flags().String("fleet", "", "ask to join the fleet of the broker with this `fingerprint`")
	unattested := cmd.Flags().Bool("allow-unattested", false, "let in a root that does not prove to live in a TPM")
	makers := cmd.Flags().String("ek-ca", "", "certificates of TPM makers in PEM; the new broker's TPM must lead to one: `file`")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *of != "" {
			if len(args) > 0 || *unattested || *makers != "" {
				return usageError{errors.New("with --fleet give nothing else: the member decides")}
			}
			if err := checkFingerprint(*of); err != nil {
				return err
			}
			return withRoot(cmd, *file, func(f *fleet) error { return f.join(cmd, *of, *asJSON) })
		}
		if err := fingerprintArg("the new broker's root, as it shows it")(cmd, args); err != nil {
			return err
		}
		o := keys.EnrollOptions{Unattested: *unattested}
		var err error
		if *makers != "" {
			if o.EKRoots, err = readCertificates(*makers); err != nil {
				return err
			}
		}
		return withFleet(cmd, *file, func(f *fleet) error {
			c, err := f.ring.Enroll(cmd.Context(), args[0], o)
			if errors.Is(err, keys.ErrNoApplicant) {
				return hint{err, "run there, and leave it waiting: brevetd keys enroll --fleet " + trust.Fingerprint(f.root.Certificate())}
			}
			if err != nil {
				return err
			}
			return changed(cmd.OutOrStdout(), c, *asJSON)
		})
	}
	return cmd
}

func (f *fleet) join(cmd *cobra.Command, of string, asJSON bool) error {
	self := trust.Fingerprint(f.root.Certificate())
	fmt.Fprintf(cmd.ErrOrStderr(), "this broker's root is %s\nwaiting for 15 minutes: on the member, run: brevetd keys enroll %s\n", self, self)
	if err := keys.Join(cmd.Context(), f.redis, f.config.ringOptions(f.root, commandLog(cmd), nil), of); err != nil {
		return noRing(fmt.Errorf("joining the fleet: %w", err))
	}
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), map[string]string{"fingerprint": self, "fleet": of})
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), "ok: this broker is in the fleet; start it")
	return err
}

func readCertificates(file string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out, err := trust.ParseEKRootsPEM(data)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	return out, nil
}

func keysRecoverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover DIGEST",
		Short: "Believe the ring in Redis although it is not known to be the newest",
		Long: "recover is for a broker whose state was lost, or restored from a copy. It believes the\n" +
			"edition of the ring in Redis with this digest. Read the digest with \"brevetd keys status\"\n" +
			"on another broker of the fleet, never from Redis.",
		Args: oneArg("the digest of the ring, sha256:…"),
	}
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withRoot(cmd, *file, func(f *fleet) error {
			if err := keys.Recover(cmd.Context(), f.redis, f.config.ringOptions(f.root, commandLog(cmd), nil), args[0]); err != nil {
				return err
			}
			if *asJSON {
				return writeJSON(cmd.OutOrStdout(), map[string]string{"digest": args[0]})
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "ok: this broker knows the ring again; start it")
			return err
		})
	}
	return cmd
}
