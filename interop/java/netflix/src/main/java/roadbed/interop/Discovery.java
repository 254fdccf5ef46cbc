package roadbed.interop;

import com.netflix.appinfo.ApplicationInfoManager;
import com.netflix.appinfo.InstanceInfo;
import com.netflix.appinfo.MyDataCenterInstanceConfig;
import com.netflix.appinfo.providers.EurekaConfigBasedInstanceInfoProvider;
import com.netflix.config.DynamicPropertyFactory;
import com.netflix.discovery.DefaultEurekaClientConfig;
import com.netflix.discovery.DiscoveryClient;
import com.netflix.discovery.shared.Application;
import com.netflix.discovery.shared.transport.DefaultEurekaTransportConfig;
import com.netflix.discovery.shared.transport.EurekaTransportConfig;
import com.netflix.discovery.shared.transport.jersey3.Jersey3TransportClientFactories;
import com.netflix.spectator.api.DefaultRegistry;
import com.netflix.spectator.api.Measurement;
import com.netflix.spectator.api.Spectator;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.StreamSupport;

/**
 * Runs Netflix's DiscoveryClient, several of them in one process that may differ in how they read JSON. Arguments: the
 * base URLs of Eureka's API, parted by commas, and per client the name of its decoder. The clients register as app JVM
 * with ids jvm-0, jvm-1 and so on, renew and poll each second.
 */
public final class Discovery {
    private static volatile List<String> servers;
    private static final AtomicLong LOOKUPS = new AtomicLong();
    private static final List<String> FAILURES = new CopyOnWriteArrayList<>();

    public static void main(String[] args) throws Exception {
        Spectator.globalRegistry().add(new DefaultRegistry());
        servers = List.of(args[0].split(","));
        List<DiscoveryClient> clients = new ArrayList<>();
        for (int i = 1; i < args.length; i++) {
            clients.add(client("jvm-" + (i - 1), args[i]));
        }
        new Orders()
                .on("known", words -> known(clients.get(Integer.parseInt(words.get(0)))))
                .on("mismatches", words -> List.of(String.valueOf(counted("ReconcileHashCodeMismatch"))))
                .on("reregistered", words -> List.of(String.valueOf(counted("DiscoveryClient_Reregister"))))
                .on("status", words -> {
                    DiscoveryClient c = clients.get(Integer.parseInt(words.get(0)));
                    c.getApplicationInfoManager().setInstanceStatus(InstanceInfo.InstanceStatus.valueOf(words.get(1)));
                    return List.of();
                })
                .on("vip", words -> clients.get(Integer.parseInt(words.get(0)))
                        .getInstancesByVipAddress(words.get(1), false).stream().map(InstanceInfo::getId).sorted().toList())
                .on("servers", words -> {
                    servers = List.copyOf(words);
                    return List.of();
                })
                .on("watch", words -> { // VIP STATUS COUNT: from now on each look-up must find so many of that status
                    clients.forEach(c -> lookUp(c, words.get(0), words.get(1), Integer.parseInt(words.get(2))));
                    return List.of();
                })
                .on("lookups", words -> {
                    List<String> all = new ArrayList<>(List.of(String.valueOf(LOOKUPS.get()), String.valueOf(FAILURES.size())));
                    all.addAll(FAILURES.subList(0, Math.min(10, FAILURES.size())));
                    return all;
                })
                .on("stop", words -> {
                    clients.forEach(DiscoveryClient::shutdown);
                    return List.of();
                })
                .obey();
    }

    /** Looks a VIP up fifty times a second until the process ends. */
    private static void lookUp(DiscoveryClient client, String vip, String status, int count) {
        Thread t = new Thread(() -> {
            while (true) {
                List<InstanceInfo> found = client.getInstancesByVipAddress(vip, false);
                LOOKUPS.incrementAndGet();
                long fit = found.stream().filter(i -> i.getStatus().name().equals(status)).count();
                if (fit != count || found.size() != count) {
                    FAILURES.add(client.getApplicationInfoManager().getInfo().getId() + " found " + found.size() + " of " + vip + ", " + fit + " of them " + status);
                }
                try {
                    Thread.sleep(20);
                } catch (InterruptedException e) {
                    return;
                }
            }
        });
        t.setDaemon(true);
        t.start();
    }

    private static DiscoveryClient client(String id, String decoder) {
        var instance = new MyDataCenterInstanceConfig() {
            @Override public String getInstanceId() { return id; }
            @Override public String getAppname() { return "jvm"; }
            @Override public String getHostName(boolean refresh) { return "localhost"; }
            @Override public String getIpAddress() { return "127.0.0.1"; }
            @Override public String getVirtualHostName() { return "jvm.test"; }
            @Override public int getNonSecurePort() { return 8080; }
            @Override public boolean isInstanceEnabledOnit() { return true; }
            @Override public int getLeaseRenewalIntervalInSeconds() { return 1; }
            @Override public int getLeaseExpirationDurationInSeconds() { return 60; }
            @Override public Map<String, String> getMetadataMap() { return Map.of("user_id", "7", "größe", "ß & <ü>"); }
        };
        var config = new DefaultEurekaClientConfig() {
            @Override public List<String> getEurekaServerServiceUrls(String zone) { return servers; }
            @Override public EurekaTransportConfig getTransportConfig() {
                return new DefaultEurekaTransportConfig("eureka.", DynamicPropertyFactory.getInstance()) {
                    @Override public int getAsyncResolverRefreshIntervalMs() { return 500; }
                    @Override public int getSessionedClientReconnectIntervalSeconds() { return 5; }
                };
            }
            @Override public int getRegistryFetchIntervalSeconds() { return 1; }
            @Override public int getInitialInstanceInfoReplicationIntervalSeconds() { return 0; }
            @Override public int getInstanceInfoReplicationIntervalSeconds() { return 1; }
            @Override public boolean shouldFilterOnlyUpInstances() { return false; }
            @Override public String getDecoderName() { return decoder; }
        };
        InstanceInfo info = new EurekaConfigBasedInstanceInfoProvider(instance).get();
        return new DiscoveryClient(new ApplicationInfoManager(instance, info), config, new Jersey3TransportClientFactories());
    }

    /** What a client knows, as APP/id/STATUS and its metadata's entry n. */
    private static List<String> known(DiscoveryClient client) {
        List<String> all = new ArrayList<>();
        for (Application app : client.getApplications().getRegisteredApplications()) {
            for (InstanceInfo i : app.getInstancesAsIsFromEureka()) {
                String n = i.getMetadata().get("n");
                all.add(app.getName() + "/" + i.getId() + "/" + i.getStatus() + (n == null ? "" : "/" + n));
            }
        }
        all.sort(null);
        return all;
    }

    private static long counted(String name) {
        return (long) StreamSupport.stream(Spectator.globalRegistry().spliterator(), false)
                .filter(m -> m.id().name().contains(name))
                .flatMap(m -> StreamSupport.stream(m.measure().spliterator(), false))
                .mapToDouble(Measurement::value).sum();
    }
}
