package draft

import (
	"maps"
	"slices"
	"strings"
)

// issuer writes the entry of the configuration.
func (d *Draft) issuer() string {
	var w writer
	w.line("issuers:")
	w.line("  - name: %s", d.Preset.Name)
	w.line("    preset: %s", d.Preset.Name)
	iss, _ := d.token["iss"].(string)
	switch {
	case iss == "" || iss == d.Preset.DefaultURL():
	case !Writable(iss):
		d.warn("iss is too long for a configuration, or has characters that none can hold")
	default:
		w.noted("    url: "+scalar(iss), "the exact iss")
	}
	if strings.HasPrefix(iss, "http://") {
		w.noted("    insecure_http: true", "for development, on this machine only")
	}
	d.audience(&w, iss)
	if d.Preset.Name == "generic" {
		w.line("    claims:")
		for _, name := range slices.Sorted(maps.Keys(d.Preset.Claims)) {
			c := d.Preset.Claims[name]
			optional := ""
			if c.Optional {
				optional = ", optional: true"
			}
			w.line("      %s: {type: %s, kind: %s%s}", key(name), c.Type, c.Kind, optional)
		}
	}
	return w.String()
}

// audience writes which audience to accept, if the token is not for the broker
// alone, and warns.
func (d *Draft) audience(w *writer, iss string) {
	aud := d.audiences()
	switch {
	case d.options.Asked != "" && slices.Equal(aud, []string{d.options.Asked}): // what an exchange asks for is the broker's url
	case d.options.Broker != "" && slices.Equal(aud, []string{d.options.Broker}):
	case len(aud) == 0:
		d.warn("the token has no audience: the broker refuses it")
	case len(aud) > 1:
		d.several(w, aud, iss)
	case !Writable(aud[0]):
		d.warn("aud is too long for a configuration, or has characters that none can hold")
	case d.Preset.FitAudience(aud[0], iss):
		d.warn("the token's audience is the platform's default: whoever else gets such tokens can show them to the broker; have the job ask for the broker's url if the platform lets it")
		w.comment("    ", "better: have the job ask for the broker's url, and leave these two out")
		w.line("    audience: %s", scalar(aud[0]))
		w.line("    allow_default_audience: true")
	case d.options.Broker == "":
		d.warn("the token is good for a broker whose url is %s and no other; give --broker to have that compared", scalar(aud[0]))
	default:
		d.warn("the token's audience is %s, not the broker's url; have the job ask for that if the platform lets it", scalar(aud[0]))
		w.comment("    ", "better: have the job ask for the broker's url, and leave this out")
		w.line("    audience: %s", scalar(aud[0]))
	}
}

// several writes the platform's own audiences that stand beside the broker's,
// and warns of others.
func (d *Draft) several(w *writer, aud []string, iss string) {
	var extra []string
	for _, a := range aud {
		if a != d.options.Broker && Writable(a) && d.Preset.FitAudience(a, iss) {
			extra = append(extra, scalar(a))
		}
	}
	if len(extra) != len(aud)-1 || !slices.Contains(aud, d.options.Broker) {
		d.warn("the token has %d audiences, and the broker refuses one that is for others, too: have the job ask for the broker's url alone", len(aud))
		return
	}
	d.warn("the token is also for %s, which the platform adds: whoever is that can show it to the broker", strings.Join(extra, ", "))
	w.line("    extra_audiences: [%s]", strings.Join(extra, ", "))
}

// audiences returns the strings of aud.
func (d *Draft) audiences() []string {
	var list []string
	switch aud := d.token["aud"].(type) {
	case string:
		list = append(list, aud)
	case []any:
		for _, item := range aud {
			if s, ok := item.(string); ok {
				list = append(list, s)
			}
		}
	}
	return list
}
