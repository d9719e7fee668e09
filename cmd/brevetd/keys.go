package main

import (
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/keys/trust"
)

func keysCommand() *cobra.Command {
	return group("keys", "Make the root key, and look after the fleet's keys",
		keysInitCommand(), keysStatusCommand(), keysAttestCommand(), keysExportTrustCommand(),
		keysEnrollCommand(), keysRemoveCommand(), keysRotateCommand(), keysRewrapCommand(), keysDestroyCommand(), keysRecoverCommand())
}

func keysInitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the root key in the configured place; refuses to replace one",
		Args:  noArgs,
	}
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := loadConfig(*file)
		if err != nil {
			return err
		}
		root, err := c.createRoot(cmd.Context())
		if err != nil {
			return err
		}
		defer root.Close()
		return showRoot(cmd.OutOrStdout(), root, *asJSON)
	}
	return cmd
}

func keysStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the root key, the fleet's brokers, and what is left on each KEK",
		Args:  noArgs,
	}
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	public := cmd.Flags().Bool("certificate", false, "print the root's certificate in PEM, for auditors and verifiers")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := loadConfig(*file)
		if err != nil {
			return err
		}
		root, err := c.openRoot(cmd.Context())
		if err != nil {
			return err
		}
		defer root.Close()
		if *public {
			return pem.Encode(cmd.OutOrStdout(), &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate().Raw})
		}
		ring, err := c.readFleet(cmd.Context(), root)
		s := keysStatus{newRootStatus(root), ring, err != nil}
		return errors.Join(s.show(cmd.OutOrStdout(), *asJSON), err)
	}
	return cmd
}

func keysAttestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "attest",
		Short: "Have the TPM say where the root key lives, now",
		Long: "attest prints a trust bundle of this broker alone, with a new statement of its TPM\n" +
			"about the root key. With --nonce, of whoever asks, it cannot have been made before.\n" +
			"Check it with: brevet verify-trust --nonce … --root FINGERPRINT FILE",
		Args: noArgs,
	}
	file := configFlag(cmd)
	nonce := cmd.Flags().String("nonce", "", "`hexadecimal`, at most 64 bytes, that the TPM signs with it")
	jsonFlag(cmd) // it always is
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		fresh, err := hex.DecodeString(*nonce)
		if err != nil || len(fresh) > 64 {
			return usageError{errors.New("--nonce must be at most 64 bytes in hexadecimal")}
		}
		c, err := loadConfig(*file)
		if err != nil {
			return err
		}
		root, err := c.openRoot(cmd.Context())
		if err != nil {
			return err
		}
		defer root.Close()
		attester, ok := root.(keys.Attester)
		if !ok {
			return hint{fmt.Errorf("a %s root cannot attest: nothing but its owner says where its key lives", root.Kind()), "only a root in a TPM can: root: {tpm: …}"}
		}
		a, err := attester.Attest(cmd.Context(), fresh)
		if err != nil {
			return fmt.Errorf("attesting the root: %w", err)
		}
		b := trust.Broker{Kind: root.Kind(), Root: root.Certificate().Raw, Agreement: root.Agreement().Raw, Attestation: a}
		return writeBundle(cmd.OutOrStdout(), trust.NewBundle(c.URL, []trust.Broker{b}, nil))
	}
	return cmd
}

func keysExportTrustCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export-trust",
		Short: "Print what vouches for the fleet's keys, for verifiers and auditors",
		Long: "export-trust prints the trust bundle: the roots of all brokers of the fleet, with\n" +
			"their attestations, and the epochs that are known. It is what GET /v1/trust answers.\n" +
			"Check it with: brevet verify-trust --root FINGERPRINT FILE",
		Args: noArgs,
	}
	file := configFlag(cmd)
	asPEM := cmd.Flags().Bool("pem", false, "print the certificates of the roots only, in PEM, for \"brevetd audit verify --root\"")
	jsonFlag(cmd) // it is, without --pem
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return withFleet(cmd, *file, func(f *fleet) error {
			if *asPEM {
				for _, root := range f.ring.Roots() {
					if err := pem.Encode(cmd.OutOrStdout(), &pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}); err != nil {
						return err
					}
				}
				return nil
			}
			epochs, err := keys.ReadEpochs(cmd.Context(), keys.NewRedisBoard(f.redis), f.ring.Roots(), f.config.URL, time.Now())
			if err != nil {
				return err
			}
			return writeBundle(cmd.OutOrStdout(), f.ring.Bundle(epochs))
		})
	}
	return cmd
}

func writeBundle(w io.Writer, b *trust.Bundle) error {
	data, err := b.Encode()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", data)
	return err
}

// rootStatus is what is shown of a root key.
type rootStatus struct {
	Kind        string    `json:"kind"`
	Fingerprint string    `json:"fingerprint"` // SHA-256 of the certificate
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Certificate string    `json:"certificate"` // PEM; public
}

func newRootStatus(root keys.Root) rootStatus {
	cert := root.Certificate()
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	return rootStatus{root.Kind(), trust.Fingerprint(cert), cert.NotBefore, cert.NotAfter, string(public)}
}

func showRoot(w io.Writer, root keys.Root, asJSON bool) error {
	s := newRootStatus(root)
	if asJSON {
		return writeJSON(w, s)
	}
	return s.show(w)
}

func (s rootStatus) show(w io.Writer) error {
	kind := s.Kind
	if kind == trust.KindSoftware {
		kind += " (for development: whoever copies its file has the root)"
	}
	_, err := fmt.Fprintf(w, "root         %s\nfingerprint  %s\nvalid        %s to %s\n",
		kind, s.Fingerprint, s.NotBefore.Format(time.DateOnly), s.NotAfter.Format(time.DateOnly))
	return err
}
