package roadbed.interop;

import com.netflix.client.config.DefaultClientConfigImpl;
import com.netflix.config.ConfigurationManager;
import com.netflix.loadbalancer.BaseLoadBalancer;
import com.netflix.loadbalancer.LoadBalancerStats;
import com.netflix.loadbalancer.Server;
import com.netflix.loadbalancer.ServerStats;
import com.netflix.loadbalancer.WeightedResponseTimeRule;
import com.netflix.loadbalancer.ZoneAvoidanceRule;
import com.netflix.loadbalancer.ZoneSnapshot;
import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;

/**
 * Asks Ribbon's rules. Each line is a question, answered with a line:
 * "zones MAXLOAD MAXTRIPPED INSTANCES,TRIPPED,ACTIVE,LOAD..." with the numbers of the zones that are available,
 * "blackout THRESHOLD FACTOR MAX FAILURES" with the milliseconds an endpoint gets nothing, and
 * "weights TIME,TIME... TIME,..." (response times of each server, in milliseconds) with the weights, added up.
 */
public final class Ribbon {
    private static final Map<String, LoadBalancerStats> clients = new HashMap<>(); // by their settings

    public static void main(String[] args) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in), 1 << 20);
        BufferedWriter out = new BufferedWriter(new OutputStreamWriter(System.out), 1 << 20);
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] word = line.split(" ");
            out.write(switch (word[0]) {
                case "zones" -> zones(word);
                case "blackout" -> blackout(word);
                case "weights" -> weights(word);
                default -> throw new IllegalArgumentException(line);
            });
            out.write('\n');
        }
        out.flush();
        System.exit(0); // the rules' timers would keep it
    }

    private static String zones(String[] word) {
        Map<String, ZoneSnapshot> zones = new LinkedHashMap<>();
        for (int i = 3; i < word.length; i++) {
            String[] part = word[i].split(",");
            zones.put(Integer.toString(i - 3), new ZoneSnapshot(Integer.parseInt(part[0]), Integer.parseInt(part[1]),
                Integer.parseInt(part[2]), Double.parseDouble(part[3])));
        }
        return String.join(" ", new TreeSet<>(
            ZoneAvoidanceRule.getAvailableZones(zones, Double.parseDouble(word[1]), Double.parseDouble(word[2]))));
    }

    private static String blackout(String[] word) throws Exception {
        String client = word[1] + "-" + word[2] + "-" + word[3];
        LoadBalancerStats all = clients.get(client);
        if (all == null) {
            String prefix = "niws.loadbalancer." + client + ".";
            ConfigurationManager.getConfigInstance().setProperty(prefix + "connectionFailureCountThreshold", word[1]);
            ConfigurationManager.getConfigInstance().setProperty(prefix + "circuitTripTimeoutFactorSeconds", word[2]);
            ConfigurationManager.getConfigInstance().setProperty(prefix + "circuitTripMaxTimeoutSeconds", word[3]);
            DefaultClientConfigImpl config = DefaultClientConfigImpl.getEmptyConfig();
            config.setClientName(client);
            all = new LoadBalancerStats(client);
            all.initWithNiwsConfig(config);
            clients.put(client, all);
        }
        ServerStats stats = new ServerStats(all);
        for (int i = Integer.parseInt(word[4]); i > 0; i--) {
            stats.incrementSuccessiveConnectionFailureCount();
        }
        Method period = ServerStats.class.getDeclaredMethod("getCircuitBreakerBlackoutPeriod");
        period.setAccessible(true);
        return period.invoke(stats).toString();
    }

    private static String weights(String[] word) throws Exception {
        BaseLoadBalancer balancer = new BaseLoadBalancer();
        List<Server> servers = new ArrayList<>();
        for (int i = 1; i < word.length; i++) {
            servers.add(new Server("h" + i, 80));
        }
        balancer.setServersList(servers);
        for (int i = 1; i < word.length; i++) {
            ServerStats stats = balancer.getLoadBalancerStats().getSingleServerStat(servers.get(i - 1));
            for (String time : word[i].split(",")) {
                stats.noteResponseTime(Double.parseDouble(time));
            }
        }
        WeightedResponseTimeRule rule = new WeightedResponseTimeRule();
        rule.setLoadBalancer(balancer);
        Method get = WeightedResponseTimeRule.class.getDeclaredMethod("getAccumulatedWeights");
        get.setAccessible(true);
        while (((List<?>) get.invoke(rule)).size() < servers.size()) { // the rule weighs on a thread of its own, at once
            Thread.sleep(1);
        }
        StringBuilder out = new StringBuilder();
        for (Object weight : (List<?>) get.invoke(rule)) {
            out.append(out.length() == 0 ? "" : " ").append(weight);
        }
        rule.shutdown();
        balancer.shutdown();
        return out.toString();
    }
}
