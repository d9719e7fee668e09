package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/broker/keys"
)

func keysCommand() *cobra.Command {
	return group("keys", "Make the root key, and look at it", keysInitCommand(), keysStatusCommand())
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
		place := c.path(c.Root.Software.File)
		root, err := keys.CreateSoftware(place, time.Now())
		if errors.Is(err, fs.ErrExist) {
			return hint{fmt.Errorf("there is a root key in %s already", place), "everything the broker ever signed hangs on it; move it away yourself if you mean it"}
		}
		if err != nil {
			return err
		}
		return printRoot(cmd.OutOrStdout(), root, *asJSON)
	}
	return cmd
}

func keysStatusCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show the root key", Args: noArgs}
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	public := cmd.Flags().Bool("certificate", false, "print the root's certificate in PEM, for auditors and verifiers")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := loadConfig(*file)
		if err != nil {
			return err
		}
		root, err := keys.OpenSoftware(c.path(c.Root.Software.File))
		if err != nil {
			return noRoot(err)
		}
		if *public {
			return pem.Encode(cmd.OutOrStdout(), &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate().Raw})
		}
		return printRoot(cmd.OutOrStdout(), root, *asJSON)
	}
	return cmd
}

// noRoot adds what to do to an error of opening the root key.
func noRoot(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return hint{err, "make one with: brevetd keys init"}
	}
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

func printRoot(w io.Writer, root keys.Root, asJSON bool) error {
	cert := root.Certificate()
	sum := sha256.Sum256(cert.Raw)
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	s := rootStatus{root.Kind(), hex.EncodeToString(sum[:]), cert.NotBefore, cert.NotAfter, string(public)}
	if asJSON {
		return writeJSON(w, s)
	}
	_, err := fmt.Fprintf(w, "root         %s\nfingerprint  sha256:%s\nvalid        %s to %s\n",
		s.Kind, s.Fingerprint, s.NotBefore.Format(time.DateOnly), s.NotAfter.Format(time.DateOnly))
	return err
}
