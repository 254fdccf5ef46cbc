package discovery

import "github.com/roadbed/roadbed"

// Near returns the instances of app to call from here: see [Near]. Here is Config.Location.
func (c *Client) Near(app string, least int) []roadbed.Instance {
	return Near(c.Instances(app), c.cfg.Location, least)
}

// Near picks from list the instances that are UP and in the zone of here. If these are fewer than least, those of the
// region's other zones join them, and if they are still too few, those of other regions; the nearest come first. So a
// zone that has lost most of its instances does not have the others run over. Package ipc needs no help with this: it
// spreads calls over zones by what each of them can take.
func Near(list []roadbed.Instance, here roadbed.Location, least int) []roadbed.Instance {
	var out []roadbed.Instance
	rings := []func(roadbed.Location) bool{
		func(l roadbed.Location) bool { return l == here },
		func(l roadbed.Location) bool { return l.Region == here.Region && l.Zone != here.Zone },
		func(l roadbed.Location) bool { return l.Region != here.Region },
	}
	for n, in := range rings {
		if n > 0 && len(out) >= max(least, 1) {
			break
		}
		for _, i := range list {
			if i.Status == roadbed.Up && in(i.Location) {
				out = append(out, i)
			}
		}
	}
	return out
}
